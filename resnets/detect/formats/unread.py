"""What a set states and the readers do not take: other formats, fields of COCO, lists of splits."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from resnets.data.layout.folder_names import split_role
from resnets.detect.images.store import Store

READ = {
    "images": frozenset({"id", "file_name", "filename", "path", "coco_url", "width", "height"}),
    "annotations": frozenset(
        {"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd", "difficult"}
    ),
}
# Of an image, who made it, when, and under which terms.
FOR_PEOPLE = frozenset({"license", "date_captured", "flickr_url", "extra", "dataset_id", "info"})
SPLIT_FIELDS = frozenset({"split", "subset", "set", "fold", "partition"})
SHOWN = 8  # fields in a line


def unread_fields(document: dict[str, Any]) -> list[str]:
    """A line of the fields that are not read, for annotations and for images, if any.

    Fields that hold nothing anywhere (0, false, empty) are left out. One that states the split of
    an image is named by itself.
    """
    found = []
    for key, read in READ.items():
        entries = document[key]
        counts = Counter(name for each in entries for name, value in each.items() if value)
        unread = {name: count for name, count in counts.items() if name not in read | FOR_PEOPLE}
        for name in sorted(unread.keys() & SPLIT_FIELDS if key == "images" else ()):
            message = (
                f"{unread.pop(name):,} images state a {name}, which is not used; split the file"
            )
            found.append(f"{message} into train.json, val.json and test.json for such image sets")
        if unread:
            named = [f"{name} (in {count:,})" for name, count in sorted(unread.items())]
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            found.append(f"fields of {key} that are not read: {', '.join(named[:SHOWN])}{more}")
    return found


def unread_lists(store: Store, titles: tuple[str, ...]) -> list[str]:
    """A line of the lists called like splits, where one unnamed set has not read them."""
    if len(titles) != 1 or split_role(titles[0].rpartition(":")[2]):
        return []
    lists = [path for path in store.below("", ".txt") if split_role(PurePosixPath(path).stem)]
    if not lists:
        return []
    return [
        f"{', '.join(lists[:3])}: lists of images that are not read; their image sets need"
        " annotation files of their own, such as train.json and val.json"
    ]


EXPECTED = (
    "expected COCO JSON (annotations/instances_<set>.json), VOC XML (Annotations/*.xml), YOLO text"
    " (data.yaml, labels/), labelme JSON, CVAT XML or CSV of run lengths (EncodedPixels)"
)
LOOKED = 4096  # bytes of a file
LOOKED_AT = 50  # files
_NUMBER = r"-?\d+(?:\.\d+)?"
FORMS = (
    ("KITTI text", ".txt", rf"[A-Za-z_]\w*(?: {_NUMBER}){{14,15}}\s*"),
    ("VisDrone text", ".txt", r"(?:\d+,){7}\d+,?\s*"),
    ("DOTA text", ".txt", rf"(?:{_NUMBER} ){{8}}\S+ [012]\s*"),
    ("DOTA text", ".txt", r"imagesource:.*"),
    ("a table of boxes", ".csv", r"(?i:.*\b(?:xmin|x_min|x1|bbox)\b.*)"),
    ("VIA's CSV", ".csv", r"(?i:.*\bregion_shape_attributes\b.*)"),
    ("VIA's JSON", ".json", r'(?s:.*"(?:_via_settings|shape_attributes)".*)'),
    ("VoTT's JSON", ".json", r'(?s:.*"(?:boundingBox|visitedFrames)".*)'),
    ("CreateML's JSON", ".json", r'(?s:\s*\[.*"coordinates".*)'),
    ("lines of JSON with boxes", ".jsonl", r'.*"(?:bbox|objects)".*'),
)


def foreign_annotations(store: Store) -> str:
    """ "; FILE looks like KITTI text, which is not read ..." of the first such file; "" = none."""
    for suffix in dict.fromkeys(form[1] for form in FORMS):
        for path in store.below("", suffix)[:LOOKED_AT]:
            text = store.head(path, LOOKED)[:LOOKED].decode("utf-8", "replace")
            lines = (line for line in text.splitlines() if line.strip())
            first = text if suffix == ".json" else next(lines, "")
            for name, end, pattern in FORMS:
                if end == suffix and re.fullmatch(pattern, first):
                    called = store.called(path)
                    return f"; {called} looks like {name}, which is not read: convert it to COCO"
    others = [p for p in store.rows if PurePosixPath(p).suffix.lower() in (".txt", ".json", ".xml")]
    if not others:
        return ""
    return f"; there are files of none of these forms, such as {store.called(min(others))}"
