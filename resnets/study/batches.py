"""What the analyses of trained nets share: nets that may be compared, and pictures to measure on.

All of them compute in float32, so that equal nets give equal bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from rich.progress import track
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.data import Batch, FileSplit, Split, TensorSplit, eval_batches, order
from resnets.data.dataset.summary import announce
from resnets.evaluate import Evaluation, describe_protocol, evaluate_model
from resnets.evaluate.match import SplitName, match_classes, number_note, open_split, relabel
from resnets.evaluate.prepare import to_device
from resnets.models import ImageClassifier
from resnets.utils.terminal import Console, escape
from resnets.weights.load import NOTHING_SAID, LoadOptions, load_model

T = TypeVar("T")

BATCH_SIZE = 250
PRECISION: Literal["float32"] = "float32"
# Fields of `DataSpec` that say which pictures a split holds, of `Preprocess` how they are cut.
SHARES = ("val_fraction", "test_fraction", "split_seed", "split_rule")
CUTS = ("size", "resize", "channels", "interpolation")


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained net under study; `label` tells it from the others of its page."""

    label: str
    where: Path
    net: ImageClassifier


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures as one net sees them, on its device, to be measured again and again.

    The targets count in the order of the net's outputs, `classes`.
    """

    batches: tuple[Batch, ...]
    classes: tuple[str, ...]
    protocol: str
    device: torch.device

    def evaluate(self, net: nn.Module) -> Evaluation:
        """Errors and loss of `net` on these pictures, in eval mode."""
        return evaluate_model(
            net,
            self.batches,
            self.classes,
            protocol=self.protocol,
            precision=PRECISION,
            device=self.device,
        )


def load_subjects(
    checkpoints: Sequence[Path],
    data: str | None,
    loading: LoadOptions = NOTHING_SAID,
) -> list[Subject]:
    """The nets of runs or checkpoints, once it is sure that one set of pictures suits them all.

    Raises ConfigError when there is none, or they were trained on unlike data (`data` replaces
    the place it came from); CheckpointError.
    """
    if not checkpoints:
        raise ConfigError("name at least one run or checkpoint")
    nets = [load_model(str(path), loading) for path in checkpoints]
    for path, net in zip(checkpoints[1:], nets[1:], strict=True):
        difference = _unlike(nets[0], net, data)
        if difference is not None:
            raise ConfigError(
                f"{path} and {checkpoints[0]} are of unlike data ({difference}); "
                "study checkpoints of one data set together"
            )
    names = [net.spec.name for net in nets]
    return [
        Subject(name if names.count(name) == 1 else f"{name} ({_title(path)})", path, net)
        for name, path, net in zip(names, checkpoints, nets, strict=True)
    ]


def draw_split(
    net: ImageClassifier,
    data: str | None,
    part: Literal["train", "held-out"],
    count: int,
    seed: int,
) -> Split:
    """`count` pictures drawn by `seed` from the data of `net`, or from `data`; all where fewer.

    "held-out" is the validation split, or the test set where the recipe keeps none. Raises
    ConfigError and DataError.
    """
    if count < 1:
        raise ConfigError(f"--examples {count}: must be at least 1")
    kept = net.recipe is not None and net.recipe.data.val_fraction > 0
    name: SplitName = "train" if part == "train" else "val" if kept else "test"
    split = open_split(net, data, name)
    announce(split)
    return _draw(split, count, seed)


def show(split: Split, net: ImageClassifier, device: str) -> Pictures:
    """Move `net` to `device` and make `split` the input it expects; DataError on other classes."""
    outputs = match_classes(split.classes, net.classes, split.description)
    chosen, precision = to_device(net, device, PRECISION)
    batches = eval_batches(split, net.preprocess, BATCH_SIZE, chosen)
    protocol = describe_protocol(
        size=net.preprocess.spec.size,
        precision=precision,
        weights=net.origin,
        data=", ".join(filter(None, (split.description, number_note(split.classes, net.classes)))),
    )
    return Pictures(tuple(relabel(batches, outputs)), net.classes, protocol, chosen)


def images_of(batch: Batch) -> Tensor:
    """The batch's images as one tensor (B, C, H, W)."""
    assert isinstance(batch.images, Tensor)
    return batch.images


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """`items` one by one, under a bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    return track(
        items, escape(what), console=console, transient=True, disable=not console.is_terminal
    )


def check_finite(value: float, where: Path | str) -> float:
    """`value`, or a ValueError that says that the net at `where` computes no numbers."""
    if not math.isfinite(value):
        raise ValueError(f"{where}: the net's outputs are not finite; its run diverged")
    return value


def _draw(split: Split, count: int, seed: int) -> Split:
    """`count` pictures of `split` in its own order: sets are often stored class by class."""
    if count >= len(split):
        return split
    rows = order.permutation(len(split), seed, 0)[:count].copy()
    rows.sort()
    labels = split.labels[torch.from_numpy(rows)]
    description = f"{count:,} drawn (seed {seed}) from {split.description}"
    if isinstance(split, TensorSplit):
        images = split.images[torch.from_numpy(rows)]
        return dataclasses.replace(split, images=images, labels=labels, description=description)
    assert isinstance(split, FileSplit)
    files = split.files.take(rows)
    return dataclasses.replace(split, files=files, labels=labels, description=description)


def _unlike(first: ImageClassifier, other: ImageClassifier, data: str | None) -> str | None:
    """What keeps two nets from being shown the same pictures, or None."""
    if set(first.classes) != set(other.classes):
        return f"{len(other.classes)} and {len(first.classes)} classes, or others by name"
    fields = [(name, *_both(name, first.preprocess.spec, other.preprocess.spec)) for name in CUTS]
    if first.recipe is not None and other.recipe is not None:
        ours, theirs = first.recipe.data, other.recipe.data
        if data is None and _place(ours.source) != _place(theirs.source):
            return f"{theirs.source} and {ours.source}"
        fields += [(f"data.{name}", *_both(name, ours, theirs)) for name in SHARES]
    for name, one, another in fields:
        if one != another:
            return f"{name} {another} and {one}"
    return None


def _both(name: str, ours: object, theirs: object) -> tuple[object, object]:
    return getattr(ours, name), getattr(theirs, name)


def _place(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _title(path: Path) -> str:
    """The run folder's name of a run or of a checkpoint inside it."""
    inside = path.parent.name == "checkpoints"
    return f"{path.parent.parent.name}/{path.name}" if inside else path.name
