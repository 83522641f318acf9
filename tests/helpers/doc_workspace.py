"""Small stand-ins for all that the commands of the documentation name: images, runs, weights."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import save_checkpoint
from detect_models import FPN, NET
from detect_sets import COLORS, write_coco, write_voc
from digit_folders import recipe as tiny_recipe
from digit_sets import digit_files
from PIL import Image
from small_models import small_net

from resnets.cli.main import main
from resnets.config import DataSpec, Preprocess, Recipe, replace_fields, to_dict
from resnets.models import build, catalog
from resnets.recipes import recipe
from resnets.sequence.signals import cylinder_bell_funnel
from resnets.train.run import run_training
from resnets.weights.push import HUB_TEXT, HUBCONF

CLASSES = ("cat", "dog")
PACK = "photos-400.pack"
RUNS = ("cifar10-paper-1", "cells", "finetune-1", "flowers", "others", "photos", "scratch-1")


def make_workspace(root: Path) -> Path:
    """Fill `root`. Its names are those of README.md and docs/; nothing is larger than 3 MB."""
    _class_folders(root / "photos", 24)
    for name in ("other", "flowers", "archive", "FOLDER", "imagenette"):
        _class_folders(root / name, 12)
    for number, name in enumerate(("cat.jpg", "dog.jpg", "rose.jpg", "photo.jpg")):
        _image(number).save(root / name)
    _image(4, 16).convert("L").save(root / "digit.png")
    for number in range(2):
        (root / "holiday").mkdir(exist_ok=True)
        _image(10 + number).save(root / "holiday" / f"{number}.jpg")
    for name in ("images.tar", "archive.tar", "cifar10.tar.xz"):
        _pack(root / "photos", root / name)
    main(["data", "pack", str(root / "photos"), "--size", "400", "--out", str(root / PACK)])
    _runs(root)
    _weights(root)
    _detection(root)
    return root


def _image(seed: int, size: int = 40) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def _class_folders(folder: Path, count: int) -> None:
    """`count` digits of each of two classes, under the names of CLASSES."""
    for number, (data, digit) in enumerate(digit_files(count, 2)):
        path = folder / CLASSES[digit] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + folder.name.encode())  # no two folders share an image


def _pack(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w:xz" if file.suffix == ".xz" else "w") as tar:
        tar.add(folder, folder.name)


def _runs(root: Path) -> None:
    """Runs that were trained for a few steps on photos/, with all that a run folder holds."""
    chosen = tiny_recipe(root / "photos", "8it")
    run_training(chosen, root / "runs" / RUNS[0], device="cpu", quiet=True)
    for name in RUNS[1:]:
        _copy(root / "runs" / RUNS[0], root / "runs" / name)
    (root / "my.txt").write_text("To be, or not to be, that is the question.\n" * 60)
    values, names = cylinder_bell_funnel(30)
    rows = [[*map(str, row[0]), name] for row, name in zip(values.tolist(), names, strict=True)]
    (root / "my.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    steps = [f"{np.sin(step)},{np.cos(step)},{step // 300}\n" for step in range(600)]
    (root / "recording.csv").write_text("".join(["x,y,activity\n", *steps]))
    small = {"duration": "1it", "transformer.width": 8, "transformer.depth": 1}
    run_training(
        replace_fields(recipe("text"), small), root / "runs/text-1", device="cpu", quiet=True
    )
    signals = replace_fields(recipe("signals"), {"duration": "1it"})
    run_training(signals, root / "runs/signals-1", device="cpu", quiet=True)
    for net in ("cifar-plain56", "cifar-resnet56"):
        cell = root / "runs" / "study-depth-1" / "cells" / f"{net}-seed0"
        spec = catalog.spec(net.replace("56", "8"), num_classes=2, input_size=16)
        run_training(dataclasses.replace(chosen, model=spec), cell, device="cpu", quiet=True)


def _copy(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file():
            path = target / file.relative_to(source)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read_bytes())


def _weights(root: Path) -> None:
    """plain.pth with its classes, and a checkpoint that training can start from."""
    torch.save(build(catalog.spec("resnet18", num_classes=2)).state_dict(), root / "plain.pth")
    (root / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    pushed = build(catalog.spec("resnet18", num_classes=2))
    pushed.save(root / "pushed", classes=CLASSES, preprocess=Preprocess())
    (root / "pushed" / HUBCONF).write_text(HUB_TEXT)
    net = small_net(catalog.spec("cifar-resnet8"), classes=CLASSES)
    tensors = {f"model/{name}": tensor for name, tensor in net.state_dict().items()}
    meta = {"step": 1, "recipe": to_dict(Recipe(model=net.spec)), "classes": list(CLASSES)}
    meta["preprocess"] = to_dict(Preprocess(size=28, resize=32))
    save_checkpoint(root / "wide.safetensors", tensors, meta)


def _detection(root: Path) -> None:
    """Annotated data sets of red, green and blue objects, and a detector trained on one of them."""
    for name in ("coco", "COCO"):
        for seed, title in enumerate(("train", "val")):
            write_coco(root / name, title, [(80, 64)] * 6, seed)
    listed = write_coco(root / "COCO", "test-dev2017", [(80, 64)] * 2, 7)
    listed = {"images": listed["images"], "categories": listed["categories"]}
    annotations = root / "COCO" / "annotations"
    (annotations / "instances_test-dev2017.json").unlink()
    (annotations / "image_info_test-dev2017.json").write_text(json.dumps(listed))
    _voc(root / "VOC2012", ("train", "val", "test"))
    _class_maps(root / "VOC2012")
    for year in ("VOC2007", "VOC2012"):
        _voc(root / "VOCdevkit" / year, ("trainval", "test"))
    for number in range(8):  # one object per image
        write_voc(root / "objects", f"{number}", (64, 48), [_object(number)])
    for name in ("bccd", "D"):
        _voc(root / name, ("train", "val", "trainval", "test"), flaw=True)
    _pack(root / "bccd", root / "bccd.tar")
    detect = dataclasses.replace(FPN, train_sizes=(64,), max_size=100)
    data = DataSpec(source=str(root / "coco"))
    chosen = Recipe(task="detect", model=NET, data=data, detect=detect, duration="2it")
    chosen = dataclasses.replace(chosen, batch_size=2, precision="float32")
    run_training(chosen, root / "runs" / "detect-1", device="cpu", quiet=True)


def _object(number: int, flaw: bool = False) -> tuple[str, tuple[int, ...], int]:
    """Class, box and difficulty of an object of image `number`; a flawed box has no area."""
    box = (20, 20, 20, 20) if flaw else (4 + number, 5, 30 + number, 28)
    return (tuple(COLORS)[number % 3], box, 0)


def _voc(root: Path, sets: tuple[str, ...], flaw: bool = False) -> None:
    """Three images for each set, of which "trainval" has those of "train" and "val" if there are.

    The last object of the first set's first image has no area, with `flaw`.
    """
    lists: dict[str, list[str]] = {}
    for title in sets:
        if title == "trainval" and "val" in lists:
            lists[title] = [*lists["train"], *lists["val"]]
            continue
        lists[title] = [f"{title}{number}" for number in range(3)]
        for number, name in enumerate(lists[title]):
            objects = [_object(number)]
            objects += [_object(number, flaw=True)] if flaw and name == "train0" else []
            write_voc(root, name, (64, 48), objects)
    for title, names in lists.items():
        (root / "ImageSets" / "Main" / f"{title}.txt").write_text("\n".join(names) + "\n")


def _class_maps(root: Path) -> None:
    """VOC's class maps: half of each image is of class 1, the rest background."""
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets" / "Segmentation").mkdir()
    for title in ("train", "val"):
        names = [f"{title}{number}" for number in range(3)]
        for name in names:
            plane = np.zeros((48, 64), np.uint8)
            plane[:, 32:] = 1
            image = Image.fromarray(plane).convert("P")
            image.putpalette([0, 0, 0, 128, 0, 0])
            image.save(root / "SegmentationClass" / f"{name}.png")
        text = "\n".join(names) + "\n"
        (root / "ImageSets" / "Segmentation" / f"{title}.txt").write_text(text)
