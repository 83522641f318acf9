"""Exceptions of weights and checkpoints."""

from __future__ import annotations

from resnets.utils.errors import ResnetsError


class WeightsError(ResnetsError):
    """Weights that cannot be read, downloaded or fitted; the message names tensors or file."""


class CheckpointError(ResnetsError):
    """A checkpoint that is missing, damaged, or of another model; the message names it."""


class StoreError(Exception):
    """A store that cannot read or write a file: the `reason`, and what to do, the `remedy`."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy
