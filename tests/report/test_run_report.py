"""What the report of a run advises, and how it shows classes."""

from typing import Any

import pytest

from resnets.config import DataSpec, Recipe
from resnets.report.classification_details import ClassRow, RunDetails, class_rows
from resnets.report.run import advise, advise_on_data, plot_curves
from resnets.utils.files.source_paths import path_within, prefixes


def rows(val: list[float], train: list[float], losses: list[float] | None = None) -> list[Any]:
    """Rows of metrics.jsonl: a training row and an evaluation in each epoch."""
    found: list[dict[str, Any]] = []
    for epoch, (error, trained) in enumerate(zip(val, train, strict=True), start=1):
        place = {"step": 10 * epoch, "epoch": float(epoch)}
        loss = error / 50 if losses is None else losses[epoch - 1]
        found.append({"kind": "train", "top1_error": trained, "loss": 1.0, **place})
        found.append({"kind": "val", "top1_error": error, "loss": loss, **place})
    return found


FALLING = [60.0, 50.0, 42.0, 36.0, 31.0, 27.0, 24.0, 21.0]
FLAT = [60.0, 40.0, 31.0, 30.0, 30.0, 30.5, 30.0, 30.0]
RISING = [0.9, 0.8, 0.7, 0.7, 0.75, 0.8, 0.9, 1.0]
SMALL = Recipe(data=DataSpec(size=96))


@pytest.mark.parametrize(
    ("found", "recipe", "kinds"),
    [
        (rows(FALLING, FALLING), Recipe(), ["falling"]),
        (rows(FLAT, FLAT), Recipe(), []),
        (rows(FLAT, [40, 30, 20, 15, 10, 6, 3, 1]), Recipe(), ["overfitting"]),
        (rows(FLAT, FLAT, RISING), Recipe(), ["overfitting"]),
        (rows(FLAT, FLAT, [loss / 100 for loss in RISING]), Recipe(), []),  # almost no loss
        (rows(FLAT[:3], [1.0] * 3), Recipe(), []),  # too few to tell
        (rows(FLAT, FLAT), SMALL, ["pretrained"]),
        (rows(FLAT, FLAT), Recipe(data=DataSpec(size=96), weights="a.safetensors"), []),
        ([], SMALL, ["pretrained"]),
    ],
)
def test_advice(found: list[Any], recipe: Recipe, kinds: list[str]) -> None:
    assert [each.kind for each in advise(recipe, found, 3000)] == kinds


def test_only_validation_decides_the_advice() -> None:
    test = [{**row, "kind": "test" if row["kind"] == "val" else "train"} for row in rows(
        FALLING, FALLING)]  # fmt: skip
    assert advise(Recipe(), test, 3000) == []


@pytest.mark.parametrize(("points", "labels"), [(20.0, 1), (0.5, 0)])
def test_the_balanced_error_is_plotted_where_it_differs(points: float, labels: int) -> None:
    found = [
        {**row, "balanced_error": row["top1_error"] + points} if row["kind"] == "val" else row
        for row in rows(FLAT, FLAT)
    ]
    lines = [line for line in plot_curves(found).axes[0].lines if "balanced" in line.get_label()]
    assert len(lines) == labels
    for line in lines:
        assert line.get_ydata() == pytest.approx([error + points for error in FLAT])


def test_warnings_about_the_data_are_advice() -> None:
    warnings = ["two classes share images", "59 series in two splits"]
    found = advise_on_data({"data_summary": {"warnings": warnings}})
    assert [(each.kind, each.values["warning"]) for each in found] == [
        ("data", text) for text in warnings
    ]
    assert advise_on_data({}) == []


def test_classes_of_a_run() -> None:
    per_class = [
        {"class": "ok", "examples": 4, "precision": 0.8, "recall": 1.0, "f1": 0.9},
        {"class": "rust", "examples": 2, "precision": None, "recall": 0.0, "f1": 0.0},
        {"class": "new", "examples": 0, "precision": None, "recall": None, "f1": None},
    ]
    found = class_rows(per_class, {"ok": 30, "rust": 3})
    assert found[1] == ClassRow("rust", 3, 2, None, 0.0, 0.0)
    details = RunDetails("test", found, [[4, 0, 0], [1, 0, 1], [0, 0, 0]], (), ())
    assert [row.name for row in details.worst_classes] == ["rust", "ok", "new"]
    assert details.matrix[1] == ("rust", [(1, 0.5), (0, 0.0), (1, 0.5)])
    assert details.confused == [("rust", "ok", 1), ("rust", "new", 1)]
    assert details.most_trained == 30


@pytest.mark.parametrize(
    ("name", "source", "shown"),
    [
        ("/data/pets/val/cat/1.jpg", "/data/pets", "val/cat/1.jpg"),
        ("/data/pets.tar:cat/1.jpg", "/data/pets.tar", "cat/1.jpg"),
        ("/data/pets2/1.jpg", "/data/pets", "/data/pets2/1.jpg"),
        ("test image 3", "digits", "test image 3"),
        ("/data/pets/1.jpg: truncated", "/data/pets", "1.jpg: truncated"),
    ],
)
def test_paths_are_relative_to_the_data(name: str, source: str, shown: str) -> None:
    assert path_within(name, prefixes(source)) == shown
