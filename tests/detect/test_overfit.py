"""The whole path on real images: sixteen of COCO, learnt by heart, boxes and masks."""

import json
import tarfile
from pathlib import Path

import pytest
import torch

from resnets.config import DataSpec, DetectSpec, EvalSpec, OptimSpec, Recipe, ScheduleSpec
from resnets.detect.evaluate.measure import measure
from resnets.detect.loading.sources import open_detection
from resnets.detect.models.build import load_detection_model
from resnets.detect.models.predictor import Predictor
from resnets.models import catalog
from resnets.train.run import run_training


def sixteen(source: Path, root: Path) -> Path:
    """A COCO set of the sixteen images of coco-tiny whose smallest object is largest.

    At 160 px, what other images hold is a pixel or two wide.
    """
    with tarfile.open(source) as tar:
        tar.extractall(root, filter="data")
    where = root / "coco-tiny" / "annotations" / "instances_train2017.json"
    document = json.loads(where.read_text())
    smallest = {}
    for image in document["images"]:
        own = [each for each in document["annotations"] if each["image_id"] == image["id"]]
        if own and not any(each["iscrowd"] for each in own):
            side = min(image["width"], image["height"])
            smallest[image["id"]] = min(each["area"] for each in own) / side**2
    chosen = sorted(smallest, key=lambda image: -smallest[image])[:16]
    document["images"] = [each for each in document["images"] if each["id"] in chosen]
    document["annotations"] = [e for e in document["annotations"] if e["image_id"] in chosen]
    for file in where.parent.iterdir():
        file.unlink()
    where.write_text(json.dumps(document))
    return root / "coco-tiny"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_sixteen_images_are_overfitted(shared_data, tmp_path):
    """Three minutes of one core: ResNet-18 from random weights, 300 steps of four images."""
    root = sixteen(shared_data / "coco-tiny.tar", tmp_path)
    recipe = Recipe(
        name="overfit",
        task="instances",
        model=catalog.spec("resnet18"),
        data=DataSpec(source=str(root), val_fraction=0.0, test_fraction=0.0),
        detect=DetectSpec(
            train_sizes=(160,),
            max_size=320,
            flip=False,
            group_aspect=False,
            pyramid_width=64,
            region_width=256,
            anchor_sizes=(16, 32, 64, 128, 256),
            rpn_batch_size=128,
            box_batch_size=32,
            proposals=(200, 100),
        ),
        optim=OptimSpec(kind="adamw", lr=1e-3, weight_decay=1e-4, clip_norm=5.0),
        schedule=ScheduleSpec(kind="cosine", warmup=0.05),
        eval=EvalSpec(every="300it"),
        duration="300it",
        batch_size=4,
        log_every="50it",
        checkpoint_every="300it",
    )
    run_training(recipe, tmp_path / "run", device="cpu", quiet=True)
    model = load_detection_model(tmp_path / "run")
    train = open_detection(recipe.data, recipe.detect, "instances").train
    assert len(train) == 16
    assert model.preprocess is not None
    test = Predictor.of((model,), model.preprocess, torch.device("cpu"), "float32")
    judged = measure(test, train, model.origin).metrics
    assert judged.boxes is not None
    assert judged.masks is not None
    assert judged.boxes.numbers["AP50"] > 0.9
    assert judged.masks.numbers["AP50"] > 0.9
