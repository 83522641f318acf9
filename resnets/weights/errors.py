"""Exceptions of weights and checkpoints."""

from __future__ import annotations

from resnets.utils.errors import ResnetsError


class WeightsError(ResnetsError):
    """Weights that cannot be read, downloaded or fitted; the message names tensors or file."""


class CheckpointError(ResnetsError):
    """A checkpoint that is missing, damaged, or of another model; the message names it."""


class StoreError(Exception):
    """A store that cannot read or write a file: the `reason`, and a suggested `cure`."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure
