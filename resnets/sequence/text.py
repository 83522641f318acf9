"""Read a text file as windows of characters, split into training, validation and test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnets.config import DataSpec
from resnets.data.dataset.summary import DataSummary, SplitSummary
from resnets.data.errors import DataError
from resnets.sequence.dataset import Ints, SequenceData
from resnets.utils.errors import reading
from resnets.utils.machine.environment import copy_to_device
from resnets.utils.printable import printable

SONNETS = "sonnets"
MAX_LISTED = 8  # characters in a message


@dataclass(frozen=True, eq=False)
class TextWindows:
    """Adjacent windows of `context` characters and the next ones. codes: (N,) int64."""

    codes: Tensor
    context: int

    def __len__(self) -> int:
        return max(0, len(self.codes) - 1) // self.context

    def get_batch(self, rows: Ints, shifts: Ints) -> tuple[Tensor, Tensor]:
        """Return characters and their successors, (B, context) each; windows move by the shifts."""
        starts = rows * self.context + shifts % self.context
        starts %= len(self.codes) - self.context  # a window shifted past the end starts again
        indices = copy_to_device(starts[:, None] + np.arange(self.context), self.codes.device)
        return self.codes[indices], self.codes[indices + 1]


def open_text(spec: DataSpec, context: int) -> SequenceData:
    """Open the text `spec.source`: "sonnets", or a UTF-8 file. Its classes are its characters.

    Validation and test are the last `val_fraction` and `test_fraction`, in this order. The baseline
    predicts each character by its frequency in training. Raises DataError if the file cannot be
    read or a split is shorter than a window.
    """
    text = read_text(spec.source)
    characters = tuple(sorted(set(text)))
    codes = encode(text, characters, spec.source)
    held_out = {
        "val": round(spec.val_fraction * len(codes)),
        "test": round(spec.test_fraction * len(codes)),
    }
    counts = {"train": len(codes) - sum(held_out.values()), **held_out}
    splits: dict[str, TextWindows] = {}
    start = 0
    for role, count in counts.items():
        if count or role == "train":
            splits[role] = TextWindows(codes[start : start + count], context)
            if not len(splits[role]):
                raise DataError(
                    f"{spec.source}: {count:,} characters for {role} are less than a window of"
                    f" {context} (transformer.context) and the character after it; use a longer"
                    " text, or a fraction of 0 to have no such split"
                )
        start += count
    name = spec.source if spec.source == SONNETS else Path(spec.source).name
    summary = DataSummary(
        name,
        (),
        [SplitSummary(role, len(windows), "") for role, windows in splits.items()],
        unit="windows",
        described=f"{len(text):,} characters, {len(characters)} different, in windows of {context}",
        notes=("validation and test are the end of the text",) if len(splits) > 1 else (),
    )
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    baselines = {
        role: {"frequency_bits": _frequency_bits(windows, splits["train"], len(characters))}
        for role, windows in splits.items()
    }
    return SequenceData(name, characters, dict(splits), digest, summary, baselines)


def read_text(source: str) -> str:
    """Read the text `source`, "sonnets" or a UTF-8 file, with "\\n" as line ends; or DataError."""
    if source == SONNETS:
        return (files("resnets.sequence") / "sonnets.txt").read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        what = "is a folder; name one file" if path.is_dir() else "does not exist"
        raise DataError(f"{source}: {what}. Data of task 'text': {SONNETS}, or a UTF-8 file")
    with reading(path, DataError, "as UTF-8 text", "convert it (iconv -t UTF-8)"):
        return path.read_text(encoding="utf-8-sig")


def encode(text: str, characters: Sequence[str], source: str) -> Tensor:
    """Return the codes (N,) int64 of a text; raises DataError for unknown characters."""
    unknown = Counter(text) - Counter(dict.fromkeys(characters, len(text)))
    if unknown:
        shown = ", ".join(printable(repr(each)) for each in list(unknown)[:MAX_LISTED])
        raise DataError(
            f"{source}: {sum(unknown.values()):,} characters are not among the {len(characters)} of"
            f" the text that the model was trained on: {shown}"
        )
    codes = {character: code for code, character in enumerate(characters)}
    return torch.tensor([codes[each] for each in text], dtype=torch.int64)


def _frequency_bits(windows: TextWindows, train: TextWindows, characters: int) -> float:
    """Return bits per character of `windows` by the frequencies in `train` plus one (Laplace)."""
    counts = torch.bincount(train.codes, minlength=characters).double() + 1
    bits = -(counts / counts.sum()).log2()
    return float(bits[windows.codes].mean())
