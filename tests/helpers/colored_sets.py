"""Annotated sets whose objects are colored by class, so that wrong images or boxes are seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnets.config import DataSpec, DetectSpec
from resnets.detect.data.types import DetectionSplit
from resnets.detect.loading.sources import DetectionSplits, open_detection

COLORS = {"cat": (220, 40, 40), "dog": (40, 80, 220)}
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
WIDTH, HEIGHT = 96, 64
Box = tuple[int, int, int, int]


def object_of(number: int) -> tuple[str, Box]:
    """Class and box (left, top, right, bottom) of image `number`; neighbours differ in both."""
    left, top = 6 + 7 * number % 50, 4 + 5 * number % 25
    return ("cat", "dog")[number % 2], (left, top, left + 30, top + 28)


def draw(path: Path, number: int, *, orientation: int = 0, size=(WIDTH, HEIGHT)) -> None:
    """Image `number`: noise with its object; stored turned, where `orientation` says so."""
    pixels = np.random.default_rng(number).integers(90, 140, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    name, (left, top, right, bottom) = object_of(number)
    pixels[top:bottom, left:right] = COLORS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 95} if path.suffix.lower() == ".jpg" else {}))


def document(names: dict[int, str], **changes: Any) -> dict[str, Any]:
    """COCO JSON of images by number -> file name, one object each; `changes` go into all entries
    of images (width, height) or annotations."""
    images, annotations = [], []
    for number, name in names.items():
        label, (left, top, right, bottom) = object_of(number)
        images.append({"id": number + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        entry = {
            "id": number + 1,
            "image_id": number + 1,
            "category_id": 1 if label == "cat" else 2,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
        }
        annotations.append(entry | changes)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def put(path: Path, content: Any) -> None:
    """Write JSON, text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def xml(number: int, filename: str, *, size=(WIDTH, HEIGHT), head: str = "") -> str:
    """VOC XML of image `number`."""
    label, (left, top, right, bottom) = object_of(number)
    return (
        f"{head}<annotation><filename>{filename}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        "</annotation>"
    )


def voc(root: Path, numbers: range = range(6), annotations="Annotations", images="JPEGImages"):
    """A VOC set of images p<number>."""
    for number in numbers:
        draw(root / images / f"p{number}.jpg", number)
        put(root / annotations / f"p{number}.xml", xml(number, f"p{number}.jpg"))


def opened(root: Path, **fields: Any) -> DetectionSplits:
    """The set, all of it: nothing is held out."""
    data = DataSpec(source=str(root), val_fraction=0, test_fraction=0)
    return open_detection(data, DetectSpec(**fields))


def right(split: DetectionSplit | None) -> int:
    """How many objects the split has, after a look that each has its class's color."""
    assert split is not None
    count = 0
    for row in range(len(split)):
        pixels, target = split.read(row)
        for box, label in zip(target.boxes.round().astype(int), target.labels, strict=True):
            left, top, right, bottom = box
            inside = pixels[top + 1 : bottom - 1, left + 1 : right - 1].astype(int)
            color = np.array(COLORS[split.classes[label].lower()])
            assert inside.size, (split.files.name(row), box)
            wrong = np.abs(inside - color).max(-1) > 70
            assert wrong.mean() < 0.05, (split.files.name(row), split.classes[label], box)
            count += 1
    return count
