"""A text as windows of characters: what a run trains on and what it holds out."""

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
from resnets.sequence.data import SequenceData
from resnets.sequence.windows import Ints
from resnets.utils.errors import reading
from resnets.utils.printable import printable

SONNETS = "sonnets"
SHOWN = 8  # characters in a message


@dataclass(frozen=True, eq=False)
class TextWindows:
    """Windows of `context` characters and the next one, side by side. codes: (N,) int64."""

    codes: Tensor
    context: int

    def __len__(self) -> int:
        return max(0, len(self.codes) - 1) // self.context

    def take(self, rows: Ints, shifts: Ints) -> tuple[Tensor, Tensor]:
        """Characters and those after them, (B, context) each; a shift moves all of an epoch's."""
        starts = rows * self.context + shifts % self.context
        starts %= len(self.codes) - self.context  # the last window of a shifted epoch starts anew
        places = torch.from_numpy(starts[:, None] + np.arange(self.context))
        return self.codes[places], self.codes[places + 1]


def open_text(spec: DataSpec, context: int) -> SequenceData:
    """The text that `spec.source` names: "sonnets", or a UTF-8 file. Its classes are characters.

    The baseline is to predict each character by its frequency in training. Validation and test are
    its last `val_fraction` and `test_fraction`, in this order. DataError where it cannot be read or
    a part is shorter than a window.
    """
    text = read_text(spec.source)
    characters = tuple(sorted(set(text)))
    codes = encode(text, characters, spec.source)
    held = {
        "val": round(spec.val_fraction * len(codes)),
        "test": round(spec.test_fraction * len(codes)),
    }
    counts = {"train": len(codes) - sum(held.values()), **held}
    parts: dict[str, TextWindows] = {}
    start = 0
    for role, count in counts.items():
        if count or role == "train":
            parts[role] = TextWindows(codes[start : start + count], context)
            if not len(parts[role]):
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
        [SplitSummary(role, len(part), "") for role, part in parts.items()],
        unit="windows",
        described=f"{len(text):,} characters, {len(characters)} different, in windows of {context}",
        notes=("validation and test are the end of the text",) if len(parts) > 1 else (),
    )
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    baselines = {
        role: {"frequency_bits": _frequency_bits(part, parts["train"], len(characters))}
        for role, part in parts.items()
    }
    return SequenceData(name, characters, dict(parts), digest, summary, baselines)


def read_text(source: str) -> str:
    """The text called `source`, or that of a UTF-8 file, with "\\n" as line ends; DataError."""
    if source == SONNETS:
        return (files("resnets.sequence") / "sonnets.txt").read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        what = "is a folder; name one file" if path.is_dir() else "does not exist"
        raise DataError(f"{source}: {what}. Data of task 'text': {SONNETS}, or a UTF-8 file")
    with reading(path, DataError, "as UTF-8 text", "convert it (iconv -t UTF-8)"):
        return path.read_text(encoding="utf-8-sig")


def encode(text: str, characters: Sequence[str], source: str) -> Tensor:
    """(N,) int64 codes of a text; DataError names characters that are not among `characters`."""
    unknown = Counter(text) - Counter(dict.fromkeys(characters, len(text)))
    if unknown:
        shown = ", ".join(printable(repr(each)) for each in list(unknown)[:SHOWN])
        raise DataError(
            f"{source}: {sum(unknown.values()):,} characters are not among the {len(characters)} of"
            f" the text that the model was trained on: {shown}"
        )
    code = {each: place for place, each in enumerate(characters)}
    return torch.tensor([code[each] for each in text], dtype=torch.int64)


def _frequency_bits(part: TextWindows, train: TextWindows, characters: int) -> float:
    """Bits per character of `part` by the frequencies in `train`, each count one higher."""
    counts = torch.bincount(train.codes, minlength=characters).double() + 1
    bits = -(counts / counts.sum()).log2()
    return float(bits[part.codes].mean())
