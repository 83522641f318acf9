"""Bitwise comparison of two finished runs."""

import json
from pathlib import Path

import torch

from resnets.weights.checkpoint.format import LAST, read_checkpoint

COMPARED = ("kind", "step", "loss", "top1_error", "top5_error", "lr")


def difference(one: Path, other: Path) -> str:
    """What differs between the last checkpoints and rows of two runs; "" if nothing does."""
    first, second = (read_checkpoint(run / "checkpoints" / LAST).tensors for run in (one, other))
    if first.keys() != second.keys():
        return f"tensors: {sorted(first.keys() ^ second.keys())}"
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    if unequal:
        return f"{len(unequal)} of {len(first)} tensors, among them {unequal[:3]}"
    for before, after in zip(_rows(one), _rows(other), strict=True):
        if before != after:
            return f"rows: {before} and {after}"
    return ""


def _rows(run: Path) -> list[dict[str, object]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        {key: row[key] for key in COMPARED if key in row} for row in rows if row["kind"] != "time"
    ]
