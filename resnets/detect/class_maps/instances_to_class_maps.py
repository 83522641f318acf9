"""Draw label maps (class maps) from the segmentations of objects, for data sets without maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.decode.open_image import BUDGET
from resnets.data.prefetch import prefetch
from resnets.detect.class_maps.scan import MapScan
from resnets.detect.data.class_maps import IGNORE, Coding, MapPixels, SemanticMap
from resnets.detect.data.masks import render_masks
from resnets.detect.data.types import Pixels, Segmentation, Target
from resnets.utils.machine.cpu_count import cores

BACKGROUND = "background"
BACKGROUND_NAMES = frozenset({BACKGROUND, "_background_", "bg"})


NUM_SCANNED = 100  # maps drawn before training, to report their classes


@dataclass(frozen=True, eq=False)
class OutlineMap:
    """Objects of an image of `size` (H, W), drawn in order, later ones on top.

    labels: class of each object, IGNORE for crowds. background: class of all other pixels.
    """

    outlines: Sequence[Segmentation]
    labels: Sequence[int]
    size: tuple[int, int]
    background: int

    def read(self) -> Pixels:
        """Return (H, W) uint8 classes, 255 = not counted."""
        classes = np.full(self.size, self.background, np.uint8)
        with BUDGET.reserve(self.size[0] * self.size[1]):
            for outline, label in zip(self.outlines, self.labels, strict=True):
                classes[render_masks([outline], self.size, self.size)[0] > 0] = label
        return classes

    def relabel(self, labels: Sequence[int]) -> OutlineMap:
        """Return the map with class `labels[k]` in place of class k."""
        relabeled = [each if each == IGNORE else int(labels[each]) for each in self.labels]
        return replace(self, labels=relabeled, background=int(labels[self.background]))


def add_background(classes: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Return the classes of pixels and the index of the background, existing or inserted first."""
    existing = [index for index, name in enumerate(classes) if name.lower() in BACKGROUND_NAMES]
    return (tuple(classes), existing[0]) if existing else ((BACKGROUND, *classes), 0)


def scan_outline_maps(maps: Sequence[SemanticMap], classes: Sequence[str], total: int) -> MapScan:
    """Count the pixels of each class in `maps`, a sample of `total`."""
    numbers = {**{label: label for label in range(len(classes))}, IGNORE: IGNORE}
    scan = MapScan(Coding("ids", numbers, names=dict(enumerate(classes))), total)
    for _, pixels in prefetch(lambda each: each.read(), maps, workers=cores(), ahead=2 * cores()):
        scan.add("", MapPixels(pixels, False, "drawn"))
    return scan


def draw_class_map(target: Target, background: int, shift: int) -> Target:
    """Return the target with a class map of its objects, their labels increased by `shift`."""
    assert target.masks is not None
    labels = target.labels + shift
    map_labels = np.where(target.crowd, IGNORE, labels).tolist()
    size = target.height, target.width
    semantic = OutlineMap(target.masks, map_labels, size, background)
    return replace(target, labels=labels, masks=None, semantic=semantic)
