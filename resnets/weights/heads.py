"""Heads of weights: rows are matched to the data by the names of classes, not by their number."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.data.layout.class_spelling import HEADERS, indexed_names
from resnets.data.tables.ground_truth_file import WNIDS
from resnets.utils.printable import join_names
from resnets.utils.suggest import suggest_path
from resnets.weights.errors import UnnamedClassesError

log = logging.getLogger("resnets")

HeadPolicy = Literal["names", "keep", "new"]
NUM_IMAGENET_CLASSES = 1000
CLASS_FILES = (".txt", ".json", ".yaml", ".yml", ".csv", ".tsv", ".pbtxt")


def imagenet_classes() -> tuple[str, ...]:
    """Return the English names of ImageNet's 1000 classes, in their usual order."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def match_class_names(theirs: Sequence[str], ours: Sequence[str]) -> Tensor | None:
    """Return the index in `theirs` of each class of `ours`; None unless both are the same set.

    Different Unicode forms of a name are equal, and so are WordNet ids and English names of
    ImageNet. Returns None for duplicate names.
    """
    if len(theirs) == len(WNIDS) and set(ours) == set(WNIDS):
        theirs = WNIDS if tuple(theirs) == imagenet_classes() else theirs
    rows = {unicodedata.normalize("NFC", name): row for row, name in enumerate(theirs)}
    names = [unicodedata.normalize("NFC", name) for name in ours]
    if len(rows) != len(theirs) or len(theirs) != len(ours) or set(names) != set(rows):
        return None
    return torch.tensor([rows[name] for name in names])


def select_head_rows(
    source: str, theirs: Sequence[str], count: int, ours: Sequence[str], policy: HeadPolicy
) -> Tensor | None:
    """Return the rows of a head of `count` classes for the classes `ours`; None for a new head.

    theirs: names of its classes, empty if the file has none. The decision is logged. Raises
    ConfigError if `policy` is "keep" and the number of classes differs.
    """
    total = len(ours)
    if policy == "new":
        log.info("%s: new head for %d classes, because of weights_head", source, total)
        return None
    rows = match_class_names(theirs, ours) if len(theirs) == count else None
    if rows is not None:
        same_order = torch.equal(rows, torch.arange(total))
        action = "kept" if same_order else "kept, its rows reordered to the classes of the data"
        log.info("%s: head %s: the same %d classes by name", source, action, total)
        return rows
    if policy == "keep":
        if count != total:
            raise ConfigError(
                f"weights_head: 'keep', but the head of {source} is for {count} classes and the "
                f"data has {total}"
            )
        log.info("%s: head kept by position, because of weights_head", source)
        return torch.arange(total)
    if len(theirs) != count:
        reason = (
            "the weights do not name their classes; training with weights_head=keep keeps it, and"
            " create_model without classes"
        )
        reason = reason if count == total else f"it is for {count} classes"
    else:
        reason = (
            f"its classes ({join_names(theirs)}) are not those of the data ({join_names(ours)})"
        )
    log.info(
        "%s: head for %d classes replaced by a new one for %d: %s", source, count, total, reason
    )
    return None


def parse_classes(
    classes: str | Sequence[str] | None, count: int | None, source: str
) -> tuple[str, ...]:
    """Parse names for `count` outputs, None for as many as there are names; () for None.

    classes: a file with one name per line, "a,b,c", "imagenet", "numbers" (0, 1, ... of `count`),
    or a sequence. Raises ConfigError if their number differs from that of the outputs, or a name
    occurs twice.
    """
    if classes is None:
        return ()
    if isinstance(classes, str):
        names, option = _read_names(classes, count), f"--classes {classes}"
    else:
        names, option = tuple(classes), "classes"
    if count is not None and len(names) != count:
        structured = Path(option).suffix.lower() in CLASS_FILES[1:]
        hint = "; a file must have one name a line, in the order of the outputs"
        raise ConfigError(
            f"{option}: names {len(names)} classes, {source} has {count} outputs"
            f"{hint if structured else ''}"
        )
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        if tuple(names) != imagenet_classes():  # it has two cranes and two maillots
            raise ConfigError(f"{option}: contains a class twice ({duplicate})")
    return names


def _read_names(text: str, count: int | None) -> tuple[str, ...]:
    path = Path(text).expanduser()
    if path.is_file():
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--classes {text}: cannot be read as UTF-8 text: {error}") from None
        names = [line.strip() for line in lines if line.strip()]
        if len(names) > 1 and names[0].lower() in HEADERS:
            raise ConfigError(
                f"--classes {text}: line 1, {names[0]!r}, seems to be a header; remove it, or give"
                " the names as a,b,c"
            )
        indexed = indexed_names(names)
        if indexed is not None:
            log.info("%s: its lines number the classes; that order is used", text)
        return tuple(indexed or names)
    if "," not in text and path.suffix.lower() in CLASS_FILES:
        raise ConfigError(f"--classes {text}: no such file{suggest_path(path)}")
    if text == "imagenet":
        return imagenet_classes()
    if text == "numbers":
        assert count is not None
        return tuple(map(str, range(count)))
    return tuple(part.strip() for part in text.split(","))


def unnamed_classes_error(source: str, count: int) -> UnnamedClassesError:
    """Return the error for outputs without names, where names are needed."""
    return UnnamedClassesError(
        f"{source}: does not name its {count} classes",
        "give --classes FILE or a,b,c in the order of the outputs (or imagenet, or numbers for 0,"
        " 1, ...)",
    )
