"""Describe contents that are not read: other formats, fields of COCO, lists of splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from resnets.data.layout.folder_names import split_role
from resnets.detect.formats.records import set_name
from resnets.detect.images.store import Store
from resnets.utils.printable import join_names

READ_FIELDS = {
    "images": frozenset({"id", "file_name", "filename", "path", "coco_url", "width", "height"}),
    "annotations": frozenset(
        {"id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd", "difficult"}
    ),
}
# Fields that say who made an image, when, and under which terms.
INFORMATIVE = frozenset({"license", "date_captured", "flickr_url", "extra", "dataset_id", "info"})
SPLIT_FIELDS = frozenset({"split", "subset", "set", "fold", "partition"})
SHOWN = 8  # fields in a line


def list_unread_fields(document: dict[str, Any]) -> list[str]:
    """Return a note of the fields that are not read, for annotations and for images.

    Fields that are empty everywhere (0, false, "") are excluded. A field that specifies the split
    of an image has a note of its own.
    """
    notes = []
    for key, read in READ_FIELDS.items():
        entries = document[key]
        counts = Counter(name for each in entries for name, value in each.items() if value)
        unread = {name: count for name, count in counts.items() if name not in read | INFORMATIVE}
        for name in sorted(unread.keys() & SPLIT_FIELDS if key == "images" else ()):
            message = (
                f"{unread.pop(name):,} images state a {name}, which is not used; split the file"
            )
            notes.append(f"{message} into train.json, val.json and test.json for such image sets")
        if unread:
            notes.append(format_unread(key, unread))
    return notes


def format_unread(what: str, counts: Mapping[str, int]) -> str:
    """Format a note of fields that are not read, from the number of entries with each."""
    named = [f"{name} (in {count:,})" for name, count in sorted(counts.items())]
    return f"fields of {what} that are not read: {join_names(named, SHOWN)}"


def list_unread_split_lists(store: Store, titles: tuple[str, ...]) -> list[str]:
    """Return a note of the text files named like splits, if the set has one unnamed image set."""
    if len(titles) != 1 or split_role(set_name(titles[0])):
        return []
    lists = [path for path in store.find_files("", ".txt") if split_role(PurePosixPath(path).stem)]
    if not lists:
        return []
    return [
        f"{', '.join(lists[:3])}: lists of images that are not read; their image sets need"
        " annotation files of their own, such as train.json and val.json"
    ]


SUPPORTED = (
    "expected COCO JSON (annotations/instances_<set>.json), VOC XML (Annotations/*.xml), YOLO text"
    " (data.yaml, labels/), labelme JSON, CVAT XML or CSV of run-length encodings (EncodedPixels)"
)
HEAD_BYTES = 4096  # of a file that are examined
MAX_FILES = 50  # of each suffix that are examined
_NUMBER = r"-?\d+(?:\.\d+)?"
UNSUPPORTED = (  # format, suffix, pattern of the first line (of the head of JSON)
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


def describe_unsupported_files(store: Store) -> str:
    """Return "; FILE looks like KITTI text, which is not read ..." for the first such file.

    Without one, name a file of an unknown format, or return "" if there is none.
    """
    for suffix in dict.fromkeys(form[1] for form in UNSUPPORTED):
        for path in store.find_files("", suffix)[:MAX_FILES]:
            text = store.head(path, HEAD_BYTES)[:HEAD_BYTES].decode("utf-8", "replace")
            lines = (line for line in text.splitlines() if line.strip())
            first = text if suffix == ".json" else next(lines, "")
            for name, end, pattern in UNSUPPORTED:
                if end == suffix and re.fullmatch(pattern, first):
                    where = store.display_path(path)
                    return f"; {where} looks like {name}, which is not read: convert it to COCO"
    others = [p for p in store.rows if PurePosixPath(p).suffix.lower() in (".txt", ".json", ".xml")]
    if not others:
        return ""
    return f"; there are files of none of these forms, such as {store.display_path(min(others))}"
