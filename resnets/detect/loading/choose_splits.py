"""Choose the image sets of a source for each role: by name, by folder, or as halves of val.

`add_val_halves` creates val1 and val2, halves of val with about as many objects of each class. They
are used for ImageNet's detection data, whose training images have few objects each: val1 is added
to the training set, and val2 is the validation set (Girshick et al. 2014, R-CNN; the paper,
appendix B). R-CNN's own lists are used if the data set has them; these halves have the same
purpose, but other images.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from resnets.config import ConfigError, DetectSpec
from resnets.data import order
from resnets.data.dataset.image_identity import hash_names
from resnets.data.errors import DataError
from resnets.data.layout.folder_names import Role, split_role
from resnets.detect.formats.problems import find_name_warnings
from resnets.detect.formats.records import RawDataset, RawImage, RawImageSet, set_name, set_role

log = logging.getLogger("resnets")
WHOLE, HALVES = "val", ("val1", "val2")


@dataclass(frozen=True)
class ChosenSets:
    """Titles of the image sets of each role, joined by +; "" = none."""

    train: str
    val: str
    test: str


def choose_sets(titles: Sequence[str], detect: DetectSpec) -> ChosenSets:
    """Return the image sets specified by `detect`, or those of the source with matching names.

    Sets of the same name in several folders or years are joined. Raises ConfigError for a set that
    does not exist, and DataError if there is none for training, or several for one role.
    """
    exact_role = {title: split_role(set_name(title)) for title in titles}
    role_of = {title: set_role(title) for title in titles}

    def find_sets(role: Role, path: str) -> str:
        if found := [title for title in titles if exact_role[title] == role]:
            exact = [title for title in found if set_name(title).lower() == role]
            found = exact or found
        else:
            found = [title for title in titles if role_of[title] == role]
        if len({set_name(title) for title in found}) > 1:
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
        or find_sets("train", "detect.train_set")
        or find_sets("trainval", "detect.train_set")
        or (titles[0] if len(titles) == 1 else "")
    )
    if not train and "" not in titles:
        raise DataError(
            f"none of the image sets {', '.join(sorted(titles))} is for training; name one with"
            " --set detect.train_set=NAME"
        )
    val = detect.val_set or find_sets("val", "detect.val_set")
    test = detect.test_set or find_sets("test", "detect.test_set")
    training = set(train.split("+"))
    if detect.val_set and training & set(val.split("+")):
        raise ConfigError(f"detect.val_set: {val} is trained on ({train}); name another image set")
    val = "" if training & set(val.split("+")) else val
    if not detect.test_set and training & set(test.split("+")):
        test = ""  # there is one set only
    if val and not test and not detect.val_set:
        val, test = "", val
    return ChosenSets(train, val, test)


def log_sets(source: RawDataset, sets: ChosenSets) -> None:
    """Log notes on the source, and image sets that are not used."""
    for note in (*source.notes, *find_name_warnings(source.classes)):
        log.warning("%s: %s", source.name, note)
    used = {title for each in (sets.train, sets.val, sets.test) for title in each.split("+")}
    trainval = any(set_role(title) == "trainval" for title in source.titles)
    unused = [title or "(no split)" for title in source.titles if title not in used]
    if unused and not trainval:
        log.warning("%s: image sets that are not used: %s", source.name, ", ".join(unused))


def split_by_folders(source: RawDataset) -> RawDataset:
    """Split the only image set of a source by folders named like splits, if there are any.

    This prevents training on images of test/. The source is returned unchanged if its set is named
    like a split, or the folders belong to fewer than two splits.
    """
    if len(source.titles) != 1 or set_role(source.titles[0]) is not None:
        return source
    paths = source.store.image_paths
    if len({split_role(name) for name in map(_split_folder, paths) if name}) < 2:
        return source
    whole_set = source.load(source.titles[0])
    groups: dict[str, list[RawImage]] = defaultdict(list)
    for image in whole_set.images:
        groups[_split_folder(image.path or image.name)].append(image)
    split_folders = sorted(filter(None, groups))
    if len(set(map(split_role, split_folders))) < 2:
        return source
    first_folder = next(
        (name for name in split_folders if split_role(name) == "train"), split_folders[0]
    )
    without_file = [image for image in groups.get("", ()) if image.path is None]
    groups[first_folder] += without_file  # so that training names them
    groups[""] = [image for image in groups.get("", ()) if image.path is not None]

    def load(title: str) -> RawImageSet:
        return _select_images(whole_set, groups[title], title == first_folder)

    titles = (*split_folders, *([""] if groups[""] else []))
    folders = ", ".join(f"{name}/" for name in split_folders)
    note = f"images of one list lie in {folders}; each is an image set of its own"
    return replace(source, titles=titles, load=load, notes=(*source.notes, note))


def _select_images(
    image_set: RawImageSet, images: Sequence[RawImage], with_problems: bool
) -> RawImageSet:
    """Return some images of a set; problems of no single image go with `with_problems`."""
    count = sum(len(image.objects) for image in images)
    if not with_problems:
        return RawImageSet(images, objects=count)
    count += len(image_set.orphans)
    return replace(image_set, images=images, objects=count)


def _split_folder(path: str) -> str:
    """Return the outermost folder of a path that is named like a split, or ""."""
    return next(filter(split_role, path.replace("\\", "/").split("/")[:-1]), "")


def list_named_sets(detect: DetectSpec) -> Iterable[str]:
    """Yield the image sets that a recipe names."""
    return (
        name
        for titles in (detect.train_set, detect.val_set, detect.test_set)
        for name in titles.split("+")
    )


def add_val_halves(source: RawDataset, names: Iterable[str]) -> RawDataset:
    """Return `source` with image sets val1 and val2 if `names` has them and only val exists."""
    titles = source.titles
    if not set(names) & set(HALVES) or WHOLE not in titles or set(HALVES) & set(titles):
        return source

    @cache
    def halves() -> tuple[list[RawImage], list[RawImage]]:
        image_set = source.load(WHOLE)
        first, second = halve_by_class(image_set.images)
        log.warning("%s: %s", source.name, _describe_halves(first, second))
        return first, second

    def load(title: str) -> RawImageSet:
        if title not in HALVES:
            return source.load(title)
        image_set, images = source.load(WHOLE), halves()[HALVES.index(title)]
        count = sum(len(image.objects) for image in images)
        # Problems of no single image are those of both.
        return replace(
            image_set, images=images, objects=count if image_set.objects is not None else None
        )

    return replace(source, titles=(*titles, *HALVES), load=load)


def halve_by_class(images: Sequence[RawImage]) -> tuple[list[RawImage], list[RawImage]]:
    """Split images into halves with about as many objects of each class, in the original order.

    Images of the rarest classes are assigned first, each to the half with fewer objects of its
    classes. The same images give the same halves; an additional image may move others.
    """
    counts = [Counter(each.label for each in image.objects) for image in images]
    totals: Counter[int] = sum(counts, Counter())
    hashes = hash_names([image.path or image.name for image in images])
    random_keys = order.random_bits(0, 0, hashes, order.STREAM_SPLIT).tolist()

    def rarest_count(row: int) -> int:
        return min((totals[label] for label in counts[row]), default=1 << 62)

    halves: tuple[list[int], list[int]] = ([], [])
    counts_of_half: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for row in sorted(range(len(images)), key=lambda row: (rarest_count(row), random_keys[row])):
        balance = sum(
            number * (counts_of_half[0][label] - counts_of_half[1][label]) / totals[label]
            for label, number in counts[row].items()
        )
        half = int(balance > 0) if balance else int(len(halves[0]) > len(halves[1]))
        halves[half].append(row)
        counts_of_half[half].update(counts[row])
    first, second = ([images[row] for row in sorted(rows)] for rows in halves)
    return first, second


def class_imbalances(first: Sequence[RawImage], second: Sequence[RawImage]) -> list[float]:
    """Return |a - b| / (a + b) for the numbers a and b of objects of each class in two sets."""
    a, b = (
        Counter(each.label for image in half for each in image.objects) for half in (first, second)
    )
    return [abs(a[label] - b[label]) / (a[label] + b[label]) for label in sorted(a | b)]


def _describe_halves(first: Sequence[RawImage], second: Sequence[RawImage]) -> str:
    imbalances = class_imbalances(first, second) or [0.0]
    return (
        f"{HALVES[0]} and {HALVES[1]}: {len(first):,} and {len(second):,} images of {WHOLE}, halved"
        f" by class (imbalance at most {100 * max(imbalances):.0f}%, median"
        f" {100 * median(imbalances):.0f}%);"
        " R-CNN's own lists are used where they are among the image sets"
    )
