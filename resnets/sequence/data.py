"""A set of sequences, split: what a task of sequences trains on and holds out."""

from __future__ import annotations

from dataclasses import dataclass, field

from resnets.data.dataset.summary import DataSummary
from resnets.sequence.windows import Windows


@dataclass(frozen=True, eq=False)
class SequenceData:
    """Windows by role ("train", and where there are any "val" and "test").

    classes: names of the targets. digest: SHA-256 of all data. baselines: metrics of each part that
    need no model, by role.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Windows]
    digest: str
    summary: DataSummary
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
