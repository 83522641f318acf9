"""Diagrams of models (paper, Fig. 3) and of building blocks (Fig. 2 and 5), read from the modules.

They are plain SVG on a white background, legible on any page, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnets.config import ConfigError, ModelSpec
from resnets.diagrams.block import Flow, draw_blocks, read_flow
from resnets.diagrams.networks import draw_models
from resnets.diagrams.trace import read_column
from resnets.models import ImageClassifier, build
from resnets.models.cost import shapes_only
from resnets.models.resnet import BLOCKS
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.write import atomic_write
from resnets.utils.suggest import suggest


def model_diagram(models: Sequence[ImageClassifier], size: int | None = None) -> str:
    """Draw `models` side by side, for images of `size` px (default: each model's own), as SVG.

    There is one box per weighted layer and pool, rows are aligned by output size, and shortcuts are
    curves: solid if they keep the dimensions, dotted if they increase them. If a model has more
    than 60 weighted layers, consecutive equal blocks are drawn once, with their number.
    """
    assert models
    return draw_models([read_column(model, size) for model in models])


def block_diagram(kinds: Sequence[str]) -> str:
    """Draw building blocks side by side, as SVG; `kinds` are keys of `BLOCKS`.

    Raises ConfigError for an unknown kind.
    """
    assert kinds
    for kind in kinds:
        if kind not in BLOCKS:
            raise ConfigError(f"unknown block {kind!r}; {suggest(kind, BLOCKS)}")
    return draw_blocks([_read_block(kind) for kind in kinds])


def _read_block(kind: str) -> Flow:
    """Read a block with an identity shortcut: 64 channels in Fig. 5 left, 256 in Fig. 5 right."""
    with shapes_only():
        model = build(ModelSpec(block=kind, depths=(2,), widths=(64,)))  # type: ignore[arg-type]
    title = f"{kind.replace('preact-', 'pre-activation ')} block"
    return read_flow(model.blocks()["stage1.1"], title)


def save_diagram(svg: str, path: str | Path) -> None:
    """Write a diagram atomically; an existing file is replaced.

    Raises ConfigError unless `path` ends in .svg in an existing folder, OSError if it cannot be
    written.
    """
    path = output_path(path, "--diagram")
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"{path}: diagrams are SVG only; name a file that ends in .svg")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no folder {path.parent}; create it first")
    with atomic_write(path) as temporary:
        temporary.write_text(svg, encoding="utf-8")
