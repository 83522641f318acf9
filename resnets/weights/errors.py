"""What goes wrong with weights."""

from __future__ import annotations

from resnets.utils.errors import ResnetsError


class WeightsError(ResnetsError):
    """Weights that cannot be had or do not fit the net; the message names the tensors or file."""


class CheckpointError(ResnetsError):
    """A checkpoint that is missing, damaged, or of another net; the message names the file."""


class StoreError(Exception):
    """A place that refuses to take or give a file: the `reason`, and the `cure` to suggest."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}; {cure}")
        self.reason, self.cure = reason, cure
