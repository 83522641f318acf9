"""Colours in which VOC and Cityscapes draw their classes, as 0xRRGGBB."""

from __future__ import annotations

IGNORE = 255  # class of pixels that count for nothing
VOC_CLASSES = 21
VOC_VOID = 0xE0E0C0
# https://github.com/mcordts/cityscapesScripts: labelId, color and name of each trainId.
CITYSCAPES = (
    (7, 0x804080, "road"),
    (8, 0xF423E8, "sidewalk"),
    (11, 0x464646, "building"),
    (12, 0x66669C, "wall"),
    (13, 0xBE9999, "fence"),
    (17, 0x999999, "pole"),
    (19, 0xFAAA1E, "traffic light"),
    (20, 0xDCDC00, "traffic sign"),
    (21, 0x6B8E23, "vegetation"),
    (22, 0x98FB98, "terrain"),
    (23, 0x4682B4, "sky"),
    (24, 0xDC143C, "person"),
    (25, 0xFF0000, "rider"),
    (26, 0x00008E, "car"),
    (27, 0x000046, "truck"),
    (28, 0x003C64, "bus"),
    (31, 0x005064, "train"),
    (32, 0x0000E6, "motorcycle"),
    (33, 0x770B20, "bicycle"),
)
CITYSCAPES_VOID = (
    *(0x000000, 0x6F4A00, 0x510051, 0xFAAAA0, 0xE6968C, 0xB4A5B4, 0x966464, 0x96785A),
    *(0x00005A, 0x00006E),
)


def voc_color(number: int) -> int:
    """The color, 0xRRGGBB, of class `number` in VOC's palette: bits of the number, dealt out."""
    red = green = blue = 0
    for place in range(8):
        red |= (number >> (3 * place) & 1) << (7 - place)
        green |= (number >> (3 * place + 1) & 1) << (7 - place)
        blue |= (number >> (3 * place + 2) & 1) << (7 - place)
    return red << 16 | green << 8 | blue


VOC_COLORS = {voc_color(number): number for number in range(VOC_CLASSES)} | {VOC_VOID: IGNORE}
CITYSCAPES_COLORS = {color: label for label, (_, color, _) in enumerate(CITYSCAPES)}
CITYSCAPES_COLORS |= dict.fromkeys(CITYSCAPES_VOID, IGNORE)
