"""Small annotated sets, written by tests: colored rectangles on noise."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnets.detect.data.types import Detections, DetectionSplit, Target

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}, {"id": 9, "name": "blue"}]


def draw_image(width: int, height: int, boxes: list[tuple[str, tuple[int, ...]]], seed: int = 0):
    """Noise (H, W, 3) with filled rectangles (left, top, right, bottom)."""
    pixels = np.random.default_rng(seed).integers(90, 140, (height, width, 3)).astype(np.uint8)
    for name, (left, top, right, bottom) in boxes:
        pixels[top:bottom, left:right] = COLORS[name]
    return pixels


def write_coco(root: Path, title: str, sizes: list[tuple[int, int]], seed: int = 0) -> dict:
    """A COCO set of one part, two rectangles an image; returns its document."""
    rng = np.random.default_rng(seed)
    (root / title).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number, (width, height) in enumerate(sizes, start=1):
        name = f"{title}{number:04d}.png"
        boxes = []
        for half in range(2):
            left = int(rng.integers(0, width // 4)) + half * width // 2
            top = int(rng.integers(0, height // 2))
            box = (left, top, left + width // 4, top + height // 3)
            entry = CATEGORIES[int(rng.integers(0, 3))]
            boxes.append((entry["name"], box))
            document["annotations"].append(annotation(document, number, entry["id"], box))
        noise = zlib.crc32(f"{title}/{number}".encode())  # no two images are byte-identical
        Image.fromarray(draw_image(width, height, boxes, noise)).save(root / title / name)
        document["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
    save(root, title, document)
    return document


def annotation(document: dict, image: int, category: int, box: tuple[int, ...]) -> dict:
    left, top, right, bottom = box
    return {
        "id": len(document["annotations"]) + 1,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def save(root: Path, title: str, document: dict) -> None:
    (root / "annotations" / f"instances_{title}.json").write_text(json.dumps(document))


def write_voc(
    root: Path, name: str, size: tuple[int, int], objects: list[tuple[str, tuple, int]]
) -> None:
    """One image of VOC's form; boxes as VOC writes them, from 1 and inclusive."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    noise = zlib.crc32(f"{root.name}/{name}".encode())  # no two images are byte-identical
    Image.fromarray(draw_image(*size, [], noise)).save(root / "JPEGImages" / f"{name}.jpg")
    rows = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><part><name>x</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2), difficult in objects
    )
    size_text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    text = f"<annotation><filename>wrong.jpg</filename>{size_text}{rows}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


def bare_target(boxes, labels, size=(100, 100), difficult=None, masks=None) -> Target:
    """A target (H, W) made by hand."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Target(
        boxes=boxes,
        labels=np.array(labels, np.int64).reshape(-1),
        crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool) if difficult is None else np.array(difficult, bool),
        areas=sides.prod(1) if count else np.zeros(0, np.float32),
        masks=masks,
        semantic=None,
        image_id=0,
        width=size[1],
        height=size[0],
    )


class NoFiles:
    """Files that nothing reads; metrics look at annotations only."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def read(self, index: int) -> bytes:
        raise AssertionError("nothing to read")

    def take(self, rows) -> "NoFiles":
        return NoFiles(len(rows))


def bare_split(targets: list[Target], classes: int = 3) -> DetectionSplit:
    names = tuple(f"class {label}" for label in range(classes))
    return DetectionSplit(NoFiles(len(targets)), targets, names, "bare", tuple(range(classes)))


def detections(boxes, scores, labels) -> Detections:
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
    )


def random_detections(split: DetectionSplit, rng, spread: float, masks: bool) -> list[Detections]:
    """Objects moved, confused, doubled and invented at random."""
    from resnets.detect.data.masks import encode_masks

    found = []
    for target in split.targets:
        base = np.concatenate([target.boxes, target.boxes[rng.random(len(target)) < 0.3]])
        made = rng.uniform(0, min(target.width, target.height) / 2, (rng.integers(0, 4), 4))
        boxes = np.concatenate([base + rng.normal(0, spread, base.shape), made])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 3)
        boxes = np.clip(boxes, 0, [target.width, target.height] * 2).astype(np.float32)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2] + 1).all(1)]
        labels = rng.integers(0, len(split.classes), len(boxes))
        keep = min(len(target), len(boxes))
        labels[:keep] = np.where(rng.random(keep) < 0.8, target.labels[:keep], labels[:keep])
        each = detections(boxes, rng.random(len(boxes)).round(2), labels)
        if masks:
            planes = np.zeros((len(boxes), target.height, target.width), np.uint8)
            for plane, (left, top, right, bottom) in zip(planes, boxes.astype(int), strict=True):
                plane[top : bottom + 1, left : right + 1] = 1
            each["masks"] = encode_masks(planes)
        found.append(each)
    return found
