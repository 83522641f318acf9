"""Annotated objects and class maps in every form, and the files of class names beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from annotation_formats import write_cvat, write_labelme, write_yolo
from colored_sets import document, draw, put, voc
from PIL import Image

from fuzzing.readers import HOME, Reader
from resnets.config import DataSpec, DetectSpec
from resnets.detect.check.run import annotation_tasks, check_annotations
from resnets.detect.class_maps.schemes import read_class_table
from resnets.detect.formats.records import Task
from resnets.detect.images.store import open_store
from resnets.detect.loading.sources import find_source, open_detection

SIZE = (32, 24)


def _coco(root: Path, count: int = 3) -> None:
    """Train and val, one object each, some with run lengths for an outline."""
    for number in range(2 * count):
        part = "val" if number % 3 == 0 else "train"
        draw(root / part / f"p{number}.png", number)
    for part in ("train", "val"):
        numbers = [n for n in range(2 * count) if (n % 3 == 0) == (part == "val")]
        made = document({number: f"p{number}.png" for number in numbers})
        made["annotations"][0]["segmentation"] = {"size": [64, 96], "counts": [1000, 40, 5104]}
        made["annotations"][0]["iscrowd"] = 1
        put(root / "annotations" / f"instances_{part}.json", made)


def write_coco(folder: Path) -> None:
    _coco(folder / "coco" / HOME)


def _forms(write: Callable[..., None]) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        _coco(folder / "raw")
        source = find_source(str(folder / "raw"), "instances")
        for name, outlines in (("boxes", False), ("outlines", True)):
            root = folder / name / HOME
            root.mkdir(parents=True)
            write(source, root, outlines)
        shutil.rmtree(folder / "raw")

    return made


def _yolo(source, root: Path, outlines: bool) -> None:
    write_yolo(source, {"train": "train", "val": "val"}, root, outlines=outlines)


def _labelme(source, root: Path, outlines: bool) -> None:
    for title in ("train", "val"):
        (root / title).mkdir()
        write_labelme(source, title, root / title, outlines=outlines)


def _cvat(source, root: Path, outlines: bool) -> None:
    write_cvat(source, {"train": "train", "val": "val"}, root, outlines=outlines)


def write_voc(folder: Path) -> None:
    root = folder / "voc" / HOME
    voc(root, range(5))
    sets = root / "ImageSets" / "Main"
    put(sets / "train.txt", "p0\np1\np2\n")
    put(sets / "val.txt", "p3\np4\n")
    put(sets / "cat_train.txt", "p0 1\np1 -1\np2 1\n")
    voc(folder / "bare" / HOME, range(3), "labels", "images")


def _maps(
    folder: Path, name: str, convert: Callable[[np.ndarray], Image.Image], text: dict
) -> None:
    root = folder / name / HOME
    for number in range(3):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"p{number}.jpg")
        values = np.zeros(SIZE[::-1], np.uint8)
        values[4:12, 6:20] = 1
        convert(values).save(root / "masks" / f"p{number}.png")
    for path, content in text.items():
        put(root / path, content)


def _palette(values: np.ndarray) -> Image.Image:
    made = Image.fromarray(values)
    made.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    return made


def _color(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([(0, 0, 0), (128, 0, 0)], np.uint8)[values])


def write_maps(folder: Path) -> None:
    names = "background\nobject\n"
    rows = "name,r,g,b\nbackground,0,0,0\nobject,128,0,0\n"
    _maps(folder, "numbers", Image.fromarray, {"classes.txt": names})
    _maps(folder, "palette", _palette, {"classes.txt": names})
    _maps(folder, "labelmap", _color, {"labelmap.txt": "a:0,0,0::\nb:128,0,0::\n"})
    _maps(folder, "dict", _color, {"class_dict.csv": rows})
    wide = lambda values: Image.fromarray(values.astype(np.uint16))  # noqa: E731
    _maps(folder, "wide", wide, {"classes.yaml": "names:\n  0: background\n  1: object\n"})
    _maps(folder, "value", Image.fromarray, {"_classes.csv": "Pixel Value, Class\n0, a\n1, b\n"})


def write_class_files(folder: Path) -> None:
    texts = {
        "classes.txt": "background\nobject\n# remark\nthing\n",
        "labelmap.txt": "# label:color:parts:actions\na:0,0,0::\nb:128,0,0:x:y\n",
        "label_colors.txt": "0 0 0 background\n128 0 0 object\n",
        "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nobject,128,0,0\n",
        "_classes.csv": "Pixel Value, Class\n0, a\n1, b\n",
        "classes.yaml": "names:\n  0: background\n  1: 'object'\npath: ../x\nx: {a: [1, b]}\n",
    }
    for name, text in texts.items():
        put(folder / name / name, text)


def class_table(root: Path) -> object:
    return read_class_table(open_store(str(root)))


def _read(root: Path, task: Task) -> None:
    """The set as training opens it, leaving out what is bad, and every target of it."""
    data = DataSpec(
        source=str(root / HOME),
        size=32,
        resize=32,
        workers=1,
        val_fraction=0.25,
        test_fraction=0.25,
    )
    found = open_detection(data, DetectSpec(skip_invalid=True), task)
    for split in (found.train, found.val, found.test()):
        for target in () if split is None else split.targets:
            if target.semantic is not None:
                target.semantic.read()


def boxes(root: Path) -> None:
    _read(root, "detect")


def outlines(root: Path) -> None:
    _read(root, "instances")


def class_maps(root: Path) -> None:
    _read(root, "segment")


def checked(root: Path) -> None:
    """As `resnets data check` reads it."""
    for task in annotation_tasks(str(root / HOME))[:1]:
        check_annotations(str(root / HOME), task)


WAYS = (boxes, outlines, checked)
FILES = ("*.xml", "*.txt", "*.json", "*.yaml", "*.csv", "*.png", "*.jpg")
TEXT = FILES[:5]
READERS = (
    Reader("coco", write_coco, WAYS, ("*.json",), share=45),
    Reader("voc", write_voc, (boxes, checked), TEXT, share=35),
    Reader("yolo", _forms(_yolo), WAYS, TEXT, share=35),
    Reader("labelme", _forms(_labelme), WAYS, TEXT, share=30),
    Reader("cvat", _forms(_cvat), WAYS, TEXT, share=30),
    Reader("class maps", write_maps, (class_maps,), (f"{HOME}/masks/*", *TEXT), share=30),
    Reader("class files", write_class_files, (class_table,), share=30),
)
