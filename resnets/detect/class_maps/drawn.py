"""Class maps drawn from the outlines of objects, for sets that have those and no maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.dataset.in_memory import cores
from resnets.data.decode.open_image import BUDGET
from resnets.data.prefetch import prefetch
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.data.class_maps import IGNORE, Coding, MapPixels, SemanticMap
from resnets.detect.data.masks import render_masks
from resnets.detect.data.types import Pixels, Segmentation, Target

BACKGROUND = "background"
BACKGROUNDS = frozenset({BACKGROUND, "_background_", "bg"})


SCANNED = 100  # maps drawn before training, to say what they hold


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """Objects of an image of `size` (H, W) in the order in which they are drawn, later ones on top.

    labels: class of each, IGNORE for crowds. background: class of the pixels that none covers.
    """

    outlines: Sequence[Segmentation]
    labels: Sequence[int]
    size: tuple[int, int]
    background: int

    def read(self) -> Pixels:
        """(H, W) uint8 classes, 255 = counts for nothing."""
        classes = np.full(self.size, self.background, np.uint8)
        with BUDGET.room(self.size[0] * self.size[1]):
            for outline, label in zip(self.outlines, self.labels, strict=True):
                classes[render_masks([outline], self.size, self.size)[0] > 0] = label
        return classes

    def relabeled(self, labels: Sequence[int]) -> DrawnMap:
        """The same map with class `labels[k]` in the place of class k."""
        moved = [each if each == IGNORE else int(labels[each]) for each in self.labels]
        return replace(self, labels=moved, background=int(labels[self.background]))


def with_background(classes: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Classes of pixels, and which of them is the background: the set's own, or a new first one."""
    own = [place for place, name in enumerate(classes) if name.lower() in BACKGROUNDS]
    return (tuple(classes), own[0]) if own else ((BACKGROUND, *classes), 0)


def scan_drawn(maps: Sequence[SemanticMap], classes: Sequence[str], total: int) -> MapScan:
    """The pixels of each class in `maps`, some of `total`."""
    numbers = {**{label: label for label in range(len(classes))}, IGNORE: IGNORE}
    scan = MapScan(Coding("ids", numbers, names=dict(enumerate(classes))), total)
    for _, pixels in prefetch(lambda each: each.read(), maps, workers=cores(), ahead=2 * cores()):
        scan.add("", MapPixels(pixels, False, "drawn"))
    return scan


def drawn(target: Target, background: int, shift: int) -> Target:
    """The target with a class map of its objects, their labels `shift` higher."""
    assert target.masks is not None
    labels = target.labels + shift
    shown = np.where(target.crowd, IGNORE, labels).tolist()
    size = target.height, target.width
    semantic = DrawnMap(target.masks, shown, size, background)
    return replace(target, labels=labels, masks=None, semantic=semantic)
