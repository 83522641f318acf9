"""Runs on classes of very different sizes: warnings, weights, sampling and metrics."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnets
from resnets.config import Recipe, replace_fields
from resnets.recipes import recipe
from resnets.train.log.run_log import read_rows
from resnets.train.tasks.classification import ClassificationTask
from resnets.train.tasks.label_settings import size_warnings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise images of two indistinguishable classes: 66 images and 6."""
    root, random = tmp_path_factory.mktemp("imbalance"), np.random.default_rng(0)
    for part, counts in {"train": (66, 6), "val": (30, 5), "test": (30, 5)}.items():
        for name, count in zip(("ok", "rust"), counts, strict=True):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.png")
    return root


def plan(folder: Path, **changes: object) -> Recipe:
    fields = {
        "data.source": str(folder),
        "data.size": 16,
        "duration": "4it",
        "batch_size": 12,
        "eval.every": "4it",
        "precision": "float32",
        "ema_decay": 0.0,
    }
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


@pytest.mark.parametrize(
    ("changes", "warned", "monitor"),
    [
        ({}, "class_weights=auto", "top1_error"),
        ({"loss.class_weights": "auto"}, "balanced error", "balanced_error"),
        ({"data.balance": "sqrt", "eval.monitor": "top1_error"}, "balanced error", "top1_error"),
        ({"loss.class_weights": "auto", "data.balance": "sqrt"}, "twice", "balanced_error"),
    ],
)
def test_rare_classes_are_warned_about_and_remedies_select_by_the_balanced_error(
    folder: Path, changes: dict[str, str], warned: str, monitor: str
) -> None:
    task = ClassificationTask.open(plan(folder, **changes))
    (warning,) = task.summary.warnings
    assert warned in warning
    assert ("class_weights=auto" in warning) is (not changes)
    assert task.monitor == monitor
    if "loss.class_weights" in changes:
        assert task.class_weights.tolist() == pytest.approx([72 / (2 * 66), 72 / (2 * 6)])


def test_small_images_that_are_enlarged_are_warned_about(folder: Path) -> None:
    random_crops = {"data.augment.crop": "random-resized", "data.resize": 128}
    found = [
        ClassificationTask.open(
            plan(folder, **random_crops, **{"data.size": size})
        ).summary.warnings
        for size in (16, 128)
    ]
    assert [sum("16x16 px" in text for text in warnings) for warnings in found] == [0, 1]


def test_the_network_for_small_images_is_not_advised_for_the_weights_of_another(
    folder: Path,
) -> None:
    enlarged = {"data.augment.crop": "random-resized", "data.resize": 128, "data.size": 128}
    random = plan(folder, **enlarged)
    train = ClassificationTask.open(random).splits.train
    pretrained = dataclasses.replace(random, weights="run")
    advised = ["train scratch" in size_warnings(each, train)[0] for each in (random, pretrained)]
    assert advised == [False, True]


def test_a_run_that_learned_nothing_is_reported_as_such(folder: Path, tmp_path: Path) -> None:
    given = plan(folder, **{"data.balance": "classes", "loss.kind": "focal"})
    run = resnets.train(given, out=tmp_path / "run", device="cpu", quiet=True)
    test = run.result["test"]
    assert test["majority_error"] == pytest.approx(100 * 5 / 35)
    assert test["majority_class"] == "ok"
    assert test["top1_interval"][0] <= test["top1_error"] <= test["top1_interval"][1]
    assert len(test["warnings"]) == 1
    assert run.result["train"]["class_counts"] == {"ok": 66, "rust": 6}
    assert json.loads((run.folder / "result.json").read_text()) == run.result
    page = run.report.read_text()
    assert page.count('class="warning"') == sum(
        len(run.result[name]["warnings"]) for name in ("test", "val")
    )
    assert page.count('src="data:image/jpeg') > 16  # a training batch, and errors by full name
    assert "test/rust/00.png" in page
    assert str(folder / "test") not in page
    assert f"resnets train {run.folder / 'recipe.toml'}</pre>" in page
    for part in ("loss.kind", "data.balance"):  # what differs from the recipe, and nothing else
        assert f"<code>{part}</code>" in page
    assert "<code>optim.momentum</code>" not in page
    (row,) = (row for row in read_rows(run.folder) if row["kind"] == "val")
    assert row["balanced_error"] == pytest.approx(run.result["val"]["balanced_error"])
    assert 0 <= row["macro_f1"] <= 100


def test_streamed_images_are_not_sampled_by_class(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = sorted((folder / "train").glob("*/*.png"))
    names = datasets.ClassLabel(names=["ok", "rust"])
    columns = datasets.Features({"image": datasets.Image(), "label": names})
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    rows = {"image": images, "label": [path.parent.name for path in paths]}
    file = tmp_path / "images.parquet"
    datasets.Dataset.from_dict(rows, features=columns).to_parquet(file)
    streamed = {"data.source": str(file), "data.streaming": True}
    with pytest.raises(resnets.ConfigError, match=r"data\.balance"):
        ClassificationTask.open(plan(folder, **streamed, **{"data.balance": "classes"}))
    task = ClassificationTask.open(plan(folder, **streamed, **{"loss.class_weights": "auto"}))
    assert task.class_weights[1] > task.class_weights[0]


def test_weights_of_a_class_that_there_is_not_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(resnets.ConfigError, match=r"loss\.class_weights\.rusty"):
        resnets.train(
            plan(folder), loss={"class_weights": {"rusty": 2.0}}, out=tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run").exists()
