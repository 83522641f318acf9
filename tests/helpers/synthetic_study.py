"""Studies whose runs are written, not trained, for tests of the page and its conclusion."""

import json
from collections.abc import Callable
from pathlib import Path

from resnets.config import to_toml
from resnets.study.grid.cells import Grid, cell_recipe, folder_name, write_grid


def write_runs(folder: Path, grid: Grid, error: Callable[[str, int], float | None]) -> Path:
    """Write the study `grid`, whose runs end at `error(model, seed)` percent; None: it diverged."""
    write_grid(grid, folder)
    for model, seed in grid.runs:
        run = folder / "cells" / folder_name(model, seed)
        run.mkdir(parents=True)
        (run / "recipe.toml").write_text(to_toml(cell_recipe(grid, model, seed)), encoding="utf-8")
        end = error(model, seed)
        if end is None:
            (run / "failed.json").write_text('{"error": "the loss is nan at step 3"}')
            continue
        rows = [
            {"kind": kind, "step": step, "epoch": step / 10, "loss": 1.0, "top1_error": value}
            for step, value in ((50, 60.0), (90, end), (100, end))
            for kind in ("train", "test")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
        result = {"data": "digits", "test": {"top1_error": end, "protocol": "1 view"}}
        (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return folder
