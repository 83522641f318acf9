"""Whether the outlines of a set's objects lie where their boxes are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnets.detect.data.box_iou import box_iou
from resnets.detect.data.masks import bounds_of
from resnets.detect.data.records import RawPicture

LEAST_IOU = 0.7  # of a box and the one around its outline; rounding costs small objects some


def outline_warnings(pictures: Sequence[RawPicture]) -> list[str]:
    """A warning that counts the objects whose outline is elsewhere than their box, if any.

    The objects of `pictures` are good ones: their outlines can be drawn. Crowds are left out.
    """
    outlined, wrong, first = 0, 0, ""
    for picture in pictures:
        for each in picture.objects:
            if each.segmentation is None or each.crowd:
                continue
            outlined += 1
            around = bounds_of(each.segmentation, (picture.height, picture.width))
            if box_iou(np.array([each.box]), np.array([around]))[0, 0] < LEAST_IOU:
                wrong += 1
                first = first or f"{picture.called}, {each.item}"
    if not wrong:
        return []
    return [
        f"{wrong:,} of {outlined:,} outlines do not agree with the boxes of their objects, the"
        f" first is {first}: one of the two is wrong (another scale, or rows and columns exchanged)"
    ]
