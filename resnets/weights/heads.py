"""Heads: kept by the names of their classes, never by their number alone."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.data.layout.class_spelling import HEADERS, indexed_names
from resnets.data.tables.ground_truth_file import WNIDS
from resnets.weights.errors import WeightsError

log = logging.getLogger("resnets")

HeadPolicy = Literal["names", "keep", "new"]
SHOWN = 3  # names of classes in a message


def imagenet_classes() -> tuple[str, ...]:
    """English names of ImageNet's 1000 classes, in their usual order."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> Tensor | None:
    """The index in `theirs` of each class of `ours`; None unless both are the same set.

    Unicode forms of a name are equal; so are WordNet ids and English names of ImageNet. Duplicate
    names give None.
    """
    if len(theirs) == len(WNIDS) and set(ours) == set(WNIDS):
        theirs = WNIDS if tuple(theirs) == imagenet_classes() else theirs
    places = {unicodedata.normalize("NFC", name): place for place, name in enumerate(theirs)}
    wanted = [unicodedata.normalize("NFC", name) for name in ours]
    if len(places) != len(theirs) or len(theirs) != len(ours) or set(wanted) != set(places):
        return None
    return torch.tensor([places[name] for name in wanted])


def head_rows(
    source: str, theirs: Sequence[str], count: int, ours: Sequence[str], policy: HeadPolicy
) -> Tensor | None:
    """The rows of a head of `count` classes for the classes `ours`; None for a new head.

    theirs: names of its classes, empty if the file has none. The decision is logged. ConfigError if
    `policy` is "keep" and the number of classes differs.
    """
    total = len(ours)
    if policy == "new":
        log.info("%s: new head for %d classes, because of weights_head", source, total)
        return None
    rows = same_classes(theirs, ours) if len(theirs) == count else None
    if rows is not None:
        same = torch.equal(rows, torch.arange(total))
        how = "kept" if same else "kept, its rows reordered to the classes of the data"
        log.info("%s: head %s: the same %d classes by name", source, how, total)
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
        why = "the weights do not name their classes; --set weights_head=keep keeps it"
        why = why if count == total else f"it is for {count} classes"
    else:
        why = f"its classes are others ({_shown(theirs)}) than the data's ({_shown(ours)})"
    log.info("%s: head for %d classes replaced by a new one for %d: %s", source, count, total, why)
    return None


def read_classes(said: str | Sequence[str] | None, count: int, source: str) -> tuple[str, ...]:
    """Parse names for `count` outputs; () for None.

    said: a file with one name per line, "a,b,c", "imagenet", "numbers" (0, 1, ...), or a sequence.
    ConfigError if their number differs from that of the outputs, or a name occurs twice.
    """
    if said is None:
        return ()
    if isinstance(said, str):
        names = _read_names(said, count)
        said = f"--classes {said}"
    else:
        names, said = tuple(said), "classes"
    if len(names) != count:
        other = said.lower().endswith((".json", ".yaml", ".yml", ".csv", ".tsv", ".pbtxt"))
        hint = "; a file must have one name a line, in the order of the outputs" if other else ""
        raise ConfigError(f"{said}: names {len(names)} classes, {source} has {count} outputs{hint}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        if tuple(names) != imagenet_classes():  # it has two cranes and two maillots
            raise ConfigError(f"{said}: names a class twice ({twice})")
    return names


def _read_names(text: str, count: int) -> tuple[str, ...]:
    from pathlib import Path

    path = Path(text).expanduser()
    if path.is_file():
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--classes {text}: cannot be read as UTF-8 text: {error}") from None
        names = [line.strip() for line in lines if line.strip()]
        if len(names) > 1 and names[0].lower() in HEADERS:
            raise ConfigError(
                f"--classes {text}: line 1, {names[0]!r}, seems to be a header; remove it, or say"
                " the names as a,b,c"
            )
        indexed = indexed_names(names)
        if indexed is not None:
            log.info("%s: its lines number the classes; they are taken in that order", text)
        return tuple(indexed or names)
    if text == "imagenet":
        return imagenet_classes()
    if text == "numbers":
        return tuple(map(str, range(count)))
    return tuple(part.strip() for part in text.split(","))


def no_names(source: str, count: int) -> WeightsError:
    """The error if outputs without names are needed by name."""
    return WeightsError(
        f"{source}: does not name its {count} classes; give --classes FILE or a,b,c in the order of"
        " the outputs (or imagenet, or numbers for 0, 1, ...)"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
