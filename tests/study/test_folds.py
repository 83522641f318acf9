"""`resnets folds`: folds, out-of-sample predictions, label errors, corrections."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digit_folders import write_tree

from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec
from resnets.data import DataError, open_data
from resnets.data.dataset.image_identity import assign_folds
from resnets.data.sources.open import find_source
from resnets.data.splits.corrections import (
    Correction,
    apply_corrections,
    read_corrections,
    write_corrections,
)
from resnets.evaluate.metrics.multiclass import balanced_error
from resnets.models import ImageClassifier
from resnets.study.folds import predictions
from resnets.study.folds.study import folds_grid, write_folds
from resnets.study.grid.cells import cell_recipe, folder_name, read_cells, write_grid
from resnets.train.run import run_training

CLASSES, EACH, FOLDS = 3, 40, 2
SETTINGS = (
    "data.size=16",
    "batch_size=16",
    "eval.every=40it",
    "precision=float32",
    "optim.lr=0.05",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Class folders of digits, and what was planted: path of a wrong label -> its true class."""
    root = write_tree(tmp_path_factory.mktemp("planted") / "set", count=EACH, classes=CLASSES)
    planted = {}
    for label in range(CLASSES):
        for file in sorted((root / f"digit{label}").glob("*.png"))[:2]:
            wrong = (label + 1) % CLASSES
            target = root / f"digit{wrong}" / f"x{file.name}"
            file.rename(target)
            planted[f"digit{wrong}/{target.name}"] = f"digit{label}"
    return root, planted


@pytest.fixture(scope="module")
def found(tree: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("cleanlab")
    folder = tmp_path_factory.mktemp("folds")
    grid = folds_grid(
        str(tree[0]), FOLDS, recipe="digits", model="cifar-resnet8", budget="60it",
        settings=SETTINGS,
    )  # fmt: skip
    grid = replace(grid, iterations=60, epoch=4)
    write_grid(grid, folder)
    for fold in range(FOLDS):
        recipe = cell_recipe(grid, grid.models[0], fold)
        assert (recipe.data.folds, recipe.data.fold, recipe.seed) == (FOLDS, fold, 0)
        run_training(
            recipe, folder / "cells" / folder_name(grid.models[0], fold), device="cpu", quiet=True
        )
    return write_folds(grid, folder, read_cells(folder), "cpu")


def test_every_image_is_predicted_once_by_a_network_that_has_not_seen_it(found, tree) -> None:
    paths = {path.relative_to(tree[0]).as_posix() for path in tree[0].rglob("*.png")}
    assert sorted(found.predictions.paths) == sorted(paths)
    np.testing.assert_allclose(found.predictions.probabilities.sum(1), 1, rtol=1e-5)
    for fold in range(FOLDS):
        spec = DataSpec(source=str(tree[0]), in_memory="never", folds=FOLDS, fold=fold)
        held = open_data(spec).test()
        names = {held.files.paths[row] for row in range(len(held))}
        own = np.flatnonzero(found.predictions.folds == fold)
        assert names == {found.predictions.paths[row] for row in own}
    assert len(found.errors) == FOLDS
    assert found.mean == pytest.approx(np.mean(found.errors))
    with open(found.folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(found.predictions.paths)
    assert {"label", "fold", "predicted", "digit0", "digit1", "digit2"} < rows[0].keys()


def test_classes_have_equal_weight_in_the_balanced_error(found) -> None:
    wrong = found.predictions.predicted != found.predictions.labels
    errors = [100 * wrong[found.predictions.labels == each].mean() for each in range(CLASSES)]
    assert np.trace(found.predictions.confusion) == (~wrong).sum()
    assert balanced_error(found.predictions.confusion) == pytest.approx(np.mean(errors))
    with open(found.folder / "numbers" / "folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, cell in zip(rows, found.cells, strict=True):
        assert float(row["balanced error (%)"]) == cell.result["test"]["balanced_error"]
        assert float(row["macro F1 (%)"]) == cell.result["test"]["macro_f1"]


def test_probabilities_are_at_the_temperature(found, monkeypatch: pytest.MonkeyPatch) -> None:
    load = predictions.load_classifier

    def load_hot(path: Path) -> ImageClassifier:
        model = load(path)
        model.postprocess = replace(
            model.postprocess, temperature=2 * model.postprocess.temperature
        )
        return model

    monkeypatch.setattr(predictions, "load_classifier", load_hot)
    hot = predictions.predict_folds(found.cells, "cpu")
    roots = np.sqrt(found.predictions.probabilities)
    expected = roots / roots.sum(1, keepdims=True)
    np.testing.assert_allclose(hot.probabilities, expected, atol=1e-4)


def test_planted_label_errors_are_found(found, tree) -> None:
    planted = tree[1]
    hits = [each for each in found.issues if each.path in planted]
    assert len(hits) >= 4
    assert sum(planted[each.path] == each.suggested for each in hits) >= 4
    page = found.report.read_text()
    assert all(each.path in page for each in found.issues)
    assert '<span class="option">--set</span> data.corrections=' in page  # no break in an option
    listed = {line.split("\t")[0] for line in (found.folder / "quarantine.txt").open()}
    assert {each.path for each in found.issues} <= listed


def test_training_applies_corrections(found, tree) -> None:
    file = found.folder / "corrections.csv"
    before = open_data(DataSpec(source=str(tree[0]), in_memory="never", val_fraction=0))
    after = open_data(
        DataSpec(source=str(tree[0]), in_memory="never", val_fraction=0, corrections=str(file))
    )
    entries = {path: entry for path, (_, entry) in read_corrections(file).items()}
    assert entries
    for one, two in ((before.train, after.train), (before.test(), after.test())):
        names = [two.files.paths[row] for row in range(len(two))]
        known = {one.files.paths[row]: int(one.labels[row]) for row in range(len(one))}
        for row, name in enumerate(names):
            label = after.classes[two.labels[row]]
            if name in entries:
                assert label == entries[name].correction
            elif name in known:
                assert label == after.classes[known[name]]


def test_corrections_of_any_name(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "set", count=8, classes=2)
    image = next((root / "digit0").iterdir()).read_bytes()
    names = (
        b"=a.png",
        b"a,b.png",
        b"a\nb.png",
        b"'q.png",
        b"\xff.png",
        "\xe9.png".encode(),
        b" .png",
    )
    for name in names:
        (root / "digit0" / os.fsdecode(name)).write_bytes(image + name)
    entries = [Correction(f"digit0/{os.fsdecode(name)}", "digit0", "digit1") for name in names]
    write_corrections(tmp_path / "c.csv", entries)
    spec = DataSpec(source=str(root), in_memory="never", corrections=str(tmp_path / "c.csv"))
    counts = np.bincount(find_source(spec).train.labels)
    found = apply_corrections(find_source(spec), spec).train
    assert (np.bincount(found.labels) - counts).tolist() == [-len(names), len(names)]


def test_corrections_that_do_not_fit_are_refused(tree, tmp_path: Path) -> None:
    path = next(iter(tree[1]))
    label = path.split("/")[0]
    spec = DataSpec(source=str(tree[0]), corrections=str(tmp_path / "c.csv"))
    with pytest.raises(ConfigError, match="cannot be read"):
        open_data(spec)
    for entry, says in (
        (Correction("digit0/none.png", "digit0", "digit1"), "is not in"),
        (Correction(path, label, "digit7"), "digit7"),
        (Correction(path, "digit9", f"digit{(int(label[-1]) + 1) % 3}"), "digit9"),
    ):
        write_corrections(tmp_path / "c.csv", [entry])
        with pytest.raises(DataError, match=says):
            open_data(spec)
    (tmp_path / "c.csv").write_text("path,label\nx,y\n")
    with pytest.raises(ConfigError, match="correction"):
        open_data(spec)


def test_folds_are_stratified_and_keep_groups() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), (50, 33, 7, 10))
    ids = rng.integers(1, 2**63, len(labels)).astype(np.uint64)
    fold = assign_folds(labels, ids, 5, seed=0)
    for label in range(4):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    groups = (np.arange(len(labels)) // 4 + 1).astype(np.uint64)
    grouped = assign_folds(labels, ids, 5, seed=0, groups=groups)
    for group in np.unique(groups):
        assert len(set(grouped[groups == group].tolist())) == 1
    assert not np.array_equal(fold, assign_folds(labels, ids, 5, seed=1))


def test_folds_with_groups(tree) -> None:
    spec = DataSpec(source=str(tree[0]), in_memory="never", folds=4, group=r"regex:(\d+)\d\.png")
    seen: list[str] = []
    for fold in range(4):
        splits = open_data(replace(spec, fold=fold), training=True)
        held = {Path(path).name[-7:-5] for path in splits.test().files.paths}
        trained = {Path(path).name[-7:-5] for path in splits.train.files.paths}
        assert not held & trained
        seen += splits.test().files.paths
    assert len(seen) == len(set(seen)) == CLASSES * EACH


def test_invalid_arguments_are_refused(capsys) -> None:
    for changes in ({"folds": 1}, {"folds": 3, "fold": 3}, {"folds": 2, "split_rule": "rank"}):
        with pytest.raises(ConfigError, match=r"data\.fold"):
            DataSpec(**changes)
    assert main(["folds"]) == 2
    assert main(["folds", "digits", "--k", "1"]) == 2
    assert main(["folds", "digits", "--set", "data.fold=1"]) == 2
    assert main(["folds", "digits", "--recipe", "segment"]) == 2
