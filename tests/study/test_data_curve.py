"""`resnets study data`: nested subsets, and the power law through their errors."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from digit_folders import write_tree

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError, DataSpec
from resnets.data import open_data
from resnets.report.page import OF_STUDY
from resnets.study import data_curve
from resnets.study import run as study_run
from resnets.study.data_curve import data_grid, extrapolate, fit_power_law, write_curve
from resnets.study.folds import study as folds
from resnets.study.grid.cells import Cell, Grid, cell_recipe, write_grid


def test_the_power_law_is_recovered() -> None:
    images = [500, 1000, 2000, 4000, 8000]
    errors = [3 + 400 * count**-0.5 for count in images]
    law = fit_power_law(images, errors)
    assert law.exponent == pytest.approx(0.5, abs=0.03)
    assert law(32000) == pytest.approx(3 + 400 * 32000**-0.5, abs=0.1)
    _, (twice, four) = extrapolate(images, errors, tested=2000)
    assert (twice.images, four.images) == (16000, 32000)
    assert four.error < twice.error < errors[-1]
    assert twice.low <= twice.error <= twice.high
    flat = fit_power_law(images, [10.0] * 5)
    assert flat(10**6) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("name", ["data", "folds"])
def test_fields_are_given_as_to_train(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = {"data": (data_curve, "run_data_study"), "folds": (folds, "run_folds")}[name]
    monkeypatch.setattr(module, run, lambda grid, *_, **__: grid)
    function = getattr(resnets.study, name)
    grid = function(tmp_path, model="cifar-resnet8", batch_size=32, optim={"lr": 0.1}, seed=3)
    assert grid.data == str(tmp_path)
    assert set(grid.settings) == {"batch_size=32", "optim.lr=0.1", "seed=3"}


def test_subsets_are_nested_and_hold_out_the_same(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set", count=40)
    seen: set[str] = set()
    held: set[str] | None = None
    for fraction in (0.125, 0.25, 0.5, 1.0):
        spec = DataSpec(source=str(tree), in_memory="never", train_fraction=fraction)
        splits = open_data(spec, training=True)
        names = set(splits.train.files.paths)
        assert seen < names
        tests = set(splits.test().files.paths)
        assert held in (None, tests)
        again = open_data(spec, splits.fingerprint, training=True)
        assert set(again.train.files.paths) == names
        seen, held = names, tests
    with pytest.raises(ConfigError, match="train_fraction"):
        DataSpec(train_fraction=0.0)


def finished_cells(folder: Path, grid: Grid) -> list[Cell]:
    """Cells of a learning curve whose errors are 2 + 10 / sqrt(share of the images)."""
    fractions = [cell_recipe(grid, "cifar-resnet8", k).data.train_fraction for k in range(4)]
    assert fractions == [0.125, 0.25, 0.5, 1.0]
    return [
        Cell(
            "cifar-resnet8", k, folder / f"c{k}", "done", None, [],
            {
                "splits": {"images": {"train": round(1000 * fraction)}},
                "test": {
                    "top1_error": 2 + 10 * fraction**-0.5, "examples": 400,
                    "balanced_error": 40.0 + k, "macro_f1": 60.0,
                },
            },
        )
        for k, fraction in enumerate(fractions)
    ]  # fmt: skip


@pytest.mark.ci
def test_cells_and_page(tmp_path: Path) -> None:
    grid = data_grid("digits", 4, model="cifar-resnet8", budget="60it")
    grid = replace(grid, iterations=60, epoch=20)
    cells = finished_cells(tmp_path, grid)
    found = write_curve(grid, tmp_path, cells)
    assert found.images == [125, 250, 500, 1000]
    assert found.expected[0].images == 2000
    assert 2 < found.expected[0].error < 12
    assert f"{found.expected[0].error:.2f}" in found.report.read_text()
    with open(tmp_path / "numbers" / "points.csv", newline="") as file:
        points = list(csv.DictReader(file))
    balanced = [each["balanced error (%)"] for each in points if each["how"] == "measured"]
    assert [float(each) for each in balanced] == [40, 41, 42, 43]
    assert OF_STUDY in found.report.read_text()  # the index of studies lists it
    assert write_curve(grid, tmp_path, cells[:2]).law is None
    rows = [{"kind": "train", "step": 60, "epoch": 3.0, "top1_error": 40.0}]
    short = write_curve(grid, tmp_path, [*cells[:3], replace(cells[3], rows=rows)])
    assert short.law is None
    assert not short.expected
    assert short.lead.startswith("Not converged")
    assert cells[3].result is not None
    cells[3].result["test"]["top1_error"] = 0.25  # better than any law through the others
    assert "does not fit" in write_curve(grid, tmp_path, cells).lead


def test_the_seed_of_all_subsets_can_be_set() -> None:
    grid = data_grid("digits", 4, model="cifar-resnet8", budget="60it", settings=["seed=3"])
    recipes = [cell_recipe(grid, "cifar-resnet8", subset) for subset in range(4)]
    assert [each.seed for each in recipes] == [3] * 4
    assert [each.data.train_fraction for each in recipes] == [0.125, 0.25, 0.5, 1.0]


def test_invalid_arguments_are_refused() -> None:
    assert main(["study", "data"]) == 2
    assert main(["study", "data", "--data", "digits", "--subsets", "2"]) == 2
    assert main(["study", "data", "--data", "digits", "--set", "data.train_fraction=0.5"]) == 2


def test_the_page_states_the_steps_of_a_new_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are chosen when the study starts, and stored in its folder only."""

    def train(grid: Grid, folder: Path, **_: object) -> list[Cell]:
        stored = replace(grid, iterations=60, epoch=20)
        write_grid(stored, folder)
        return finished_cells(folder, stored)

    monkeypatch.setattr(study_run, "train_grid", train)
    found = resnets.study.data("digits", model="cifar-resnet8", out=tmp_path / "study")
    assert "All train for 60 steps" in found.report.read_text()
