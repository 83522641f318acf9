"""Whether a head fits a task: by the names of its classes, never by their number alone."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.data.tables.ground_truth import WNIDS
from resnets.weights.errors import WeightsError

log = logging.getLogger("resnets")

HeadPolicy = Literal["names", "keep", "new"]
SHOWN = 3  # names of classes in a message


def imagenet_classes() -> tuple[str, ...]:
    """English names of ImageNet's 1000 classes, in the order in which all libraries have them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> Tensor | None:
    """For each of `ours` the place of that class in `theirs`; None unless they are the same set.

    Names that differ in the encoding of accents alone are the same; so are ImageNet's WordNet ids
    and its English names. Names that occur twice tell nothing.
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
    """The rows of a head for `count` classes that serve `ours`, in their order; None: a new head.

    theirs: names of its classes, empty where the file has none. What is decided is logged in one
    line. ConfigError where the head is to be kept and is for another number of classes.
    """
    total = len(ours)
    if policy == "new":
        log.info("%s: new head for %d classes, as weights_head says", source, total)
        return None
    rows = same_classes(theirs, ours) if len(theirs) == count else None
    if rows is not None:
        same = torch.equal(rows, torch.arange(total))
        how = "kept" if same else "kept, its rows brought into the order of the data's classes"
        log.info("%s: head %s: the same %d classes by name", source, how, total)
        return rows
    if policy == "keep":
        if count != total:
            raise ConfigError(
                f"weights_head: 'keep', but the head of {source} is for {count} classes and the "
                f"data has {total}"
            )
        log.info("%s: head kept by position, as weights_head says", source)
        return torch.arange(total)
    if len(theirs) != count:
        why = "the weights do not name their classes; --set weights_head=keep keeps it"
        why = why if count == total else f"it is for {count} classes"
    else:
        why = f"its classes are others ({_shown(theirs)}) than the data's ({_shown(ours)})"
    log.info("%s: head for %d classes replaced by a new one for %d: %s", source, count, total, why)
    return None


def read_classes(said: str | Sequence[str] | None, count: int, source: str) -> tuple[str, ...]:
    """Names for `count` outputs, as a user says them; () for None.

    A file with one name a line, "a,b,c", "imagenet", "numbers" (0, 1, ...), or a sequence of names.
    WeightsError where their number is another than that of the outputs, or one occurs twice.
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
        hint = "; a file is read as one name a line, in the order of the outputs" if other else ""
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
        return tuple(line.strip() for line in lines if line.strip())
    if text == "imagenet":
        return imagenet_classes()
    if text == "numbers":
        return tuple(map(str, range(count)))
    return tuple(part.strip() for part in text.split(","))


def no_names(source: str, count: int) -> WeightsError:
    """What to raise where outputs without names are asked for by name."""
    return WeightsError(
        f"{source}: does not name its {count} classes; say --classes FILE or a,b,c in the order of "
        "the outputs (or imagenet, or numbers for 0, 1, ...)"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
