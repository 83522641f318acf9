"""Drawings of nets (paper, Fig. 3) and of building blocks (Fig. 2 and 5), read from real modules.

The drawings are plain SVG on a white card, so that they read well on any page, light or dark.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from resnets.config import ConfigError, atomic_write
from resnets.diagrams.block import draw_blocks, read_flow
from resnets.diagrams.networks import draw_nets
from resnets.diagrams.trace import read_column
from resnets.models import ImageClassifier, build, catalog
from resnets.models.cost import shapes_only

# Where each kind of block is taken from. The second block of stage 1 keeps its dimensions, so its
# shortcut is the identity: 64 channels in Fig. 5 left, 256 in Fig. 5 right.
BLOCKS = {
    "basic": "resnet34",
    "bottleneck": "resnet50",
    "preact-basic": "preact-resnet34",
    "preact-bottleneck": "preact-resnet50",
}


def net_diagram(nets: Sequence[ImageClassifier], size: int | None = None) -> str:
    """SVG of `nets` side by side, for pictures of `size` px (default: each net's own).

    One box per weighted layer and pool, rows aligned by output size, shortcuts as curves: solid
    where dimensions stay, dotted where they increase. If one net has more than 60 weighted layers,
    equal blocks in a row are drawn once, with their number.
    """
    assert nets
    return draw_nets([read_column(net, size) for net in nets])


def block_diagram(kinds: Sequence[str]) -> str:
    """SVG of building blocks side by side; `kinds` are keys of `BLOCKS`.

    Raises ConfigError for an unknown kind.
    """
    assert kinds
    for kind in kinds:
        if kind not in BLOCKS:
            near = difflib.get_close_matches(kind, BLOCKS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BLOCKS)}"
            raise ConfigError(f"unknown block {kind!r}; {hint}")
    flows = []
    for kind in kinds:
        with shapes_only():
            net = build(catalog.spec(BLOCKS[kind]))
        title = f"{kind.replace('preact-', 'pre-activation ')} block"
        flows.append(read_flow(net.get_submodule("stage1.1"), title))
    return draw_blocks(flows)


def save_diagram(svg: str, path: Path) -> None:
    """Write a drawing whole or not at all; an existing file is replaced.

    Raises ConfigError unless `path` ends in .svg in an existing folder, OSError where it cannot be
    written.
    """
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"{path}: diagrams are SVG only; name a file that ends in .svg")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no folder {path.parent}; create it first")
    with atomic_write(path) as temporary:
        temporary.write_text(svg, encoding="utf-8")
