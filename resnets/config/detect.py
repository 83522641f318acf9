"""Detection, localisation and segmentation on the stages of a net."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DetectSpec:
    """A detector's head, its pictures and its test (Ren et al. 2015; the paper's appendices)."""
