"""Which of a set's image sets are for training, validation and test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from resnets.config import ConfigError, DetectSpec
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import Role, role_within, split_role
from resnets.detect.formats.problems import find_name_warnings
from resnets.detect.formats.records import RawDataset

log = logging.getLogger("resnets")


@dataclass(frozen=True)
class Sets:
    """Titles of the image sets of each role, joined by +; "" = none of its own."""

    train: str
    val: str
    test: str


def choose_sets(titles: Sequence[str], detect: DetectSpec) -> Sets:
    """The image sets that `detect` names, or the source's own of fitting names.

    Those of one name in several folders or years are joined. ConfigError: a set that is not there;
    DataError: none for training, or several for one role without a name in common.
    """
    named = {title: split_role(title.rpartition(":")[2]) for title in titles}
    within = {title: _role(title) for title in titles}

    def own(role: Role, path: str) -> str:
        if found := [title for title in titles if named[title] == role]:
            exact = [title for title in found if title.rpartition(":")[2].lower() == role]
            found = exact or found
        else:
            found = [title for title in titles if within[title] == role]
        if len({title.rpartition(":")[2] for title in found}) > 1:
            raise DataError(
                f"the image sets {', '.join(found)} may all be for {role}; name one, or several"
                f" joined by +, with --set {path}="
            )
        return "+".join(found)

    for path in ("train_set", "val_set", "test_set"):
        for name in filter(None, getattr(detect, path).split("+")):
            if name not in titles:
                known = ", ".join(sorted(titles)) or "one set without a name"
                raise ConfigError(f"detect.{path}: no image set {name}; there are {known}")
    train = (
        detect.train_set
        or own("train", "detect.train_set")
        or own("trainval", "detect.train_set")
        or (titles[0] if len(titles) == 1 else "")
    )
    if not train and "" not in titles:
        raise DataError(
            f"none of the image sets {', '.join(sorted(titles))} is for training; name one with"
            " --set detect.train_set=NAME"
        )
    val = detect.val_set or own("val", "detect.val_set")
    test = detect.test_set or own("test", "detect.test_set")
    taken = set(train.split("+"))
    val = "" if taken & set(val.split("+")) else val
    if not detect.test_set and taken & set(test.split("+")):
        test = ""  # there is one set only
    if val and not test and not detect.val_set:
        val, test = "", val
    return Sets(train, val, test)


def _role(title: str) -> Role | None:
    """The split that an image set is for, by its title ("VOC2007:train")."""
    return role_within(title.rpartition(":")[2])


def announce_sets(source: RawDataset, sets: Sets) -> None:
    """Log the image sets of each role, and those that are not used."""
    for note in (*source.notes, *find_name_warnings(source.classes)):
        log.warning("%s: %s", source.name, note)
    used = {title for each in (sets.train, sets.val, sets.test) for title in each.split("+")}
    trainval = any(_role(title) == "trainval" for title in source.titles)
    unused = [title or "(no split)" for title in source.titles if title not in used]
    if unused and not trainval:
        log.warning("%s: image sets that are not used: %s", source.name, ", ".join(unused))
