"""Exceptions of weights and checkpoints."""

from __future__ import annotations

from resnets.utils.errors import ConfigError, ResnetsError


class WeightsError(ResnetsError):
    """Raised for weights that cannot be read, downloaded or fitted to the model."""


class UnstatedModelError(ConfigError):
    """Raised for weights of an unspecified model. problem: the message without a remedy."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem


class UnnamedClassesError(WeightsError):
    """Raised if weights have no names of their classes and none are given.

    problem: the message without a remedy.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem


class DownloadError(WeightsError):
    """Raised if published weights cannot be downloaded."""


class CheckpointError(ResnetsError):
    """Raised for a checkpoint that is missing, damaged, or of another model."""


class StoreError(Exception):
    """Raised if a store cannot read or write a file. reason: why. remedy: what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy
