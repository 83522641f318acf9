"""Annotations in forms that are not read, so that a refusal can name the file and the form."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from resnets.detect.data.store import Store

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
