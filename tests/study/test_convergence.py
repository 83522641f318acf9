"""Studies that are too short conclude nothing: the rule, and every page that follows it."""

import json
from pathlib import Path

import pytest

from resnets.study.convergence_rule import compute_convergence, find_caution
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import depth_grid, shortcut_grid
from resnets.study.depth.verdict import judge_degradation
from resnets.study.grid.cells import Cell, Grid, read_cell, write_grid


def curve(*errors, epochs=164.0, steps=64_000):
    """Rows of training error at even distances."""
    count = len(errors)
    return [
        {
            "kind": "train",
            "step": steps * (index + 1) // count,
            "epoch": epochs * (index + 1) / count,
            "top1_error": error,
        }
        for index, error in enumerate(errors)
    ]


LEVEL = (90, 60, 40, 33, 31, 30.5, 30.4, 30.3, 30.2, 30.1)
FALLING = (90, 85, 80, 75, 70, 65, 60, 55, 50, 40)


@pytest.mark.parametrize(
    ("errors", "epochs", "classes", "converged"),
    [
        ((90, 9.0), 2, 10, True),  # it has fitted its data, however soon
        ((90, 16.0), 2, 10, False),
        ((50, 16.0), 2, 2, False),  # a third of guessing between two classes
        (LEVEL, 120, 1000, True),  # as ImageNet ends
        (LEVEL, 3, 1000, False),  # level because the rate fell, after 3 epochs
        (FALLING, 120, 1000, False),
        ((90,) * 10, 120, 10, False),  # level at chance: it never learned
        ((30.0,), 120, 10, False),  # one row is no curve
    ],
)
def test_rule(errors, epochs, classes, converged):
    found = compute_convergence("model", [curve(*errors, epochs=epochs)], classes)
    assert found is not None
    assert found.converged is converged


def test_rule_is_of_the_mean_over_runs_and_needs_rows_of_all():
    runs = [curve(10.0), curve(24.0)]
    found = compute_convergence("model", runs, 10)
    assert found is not None
    assert found.error == 17.0
    assert not found.converged
    assert compute_convergence("model", [*runs, []], 10) is None
    assert compute_convergence("model", [], 10) is None


def cells(model, *runs, **where):
    return [
        Cell(model, seed, Path("nowhere"), "done", None, [*rows, rows[-1] | {"kind": "test"}], {})
        for seed, rows in enumerate(curve(*errors, **where) for errors in runs)
    ]


def test_short_study_concludes_nothing(tmp_path):
    """As a study of 1,000 iterations on CIFAR-10 ended: a difference of 33 points, at the start."""
    short = {"epochs": 2.6, "steps": 1000}
    grid = [
        *cells("cifar-plain20", (80, 42.3), (80, 41.8), **short),
        *cells("cifar-plain56", (90, 77.0), (90, 73.5), **short),
        *cells("cifar-resnet20", (80, 38.9), (80, 35.4), **short),
        *cells("cifar-resnet56", (90, 59.9), (90, 56.1), **short),
    ]
    verdict = judge_degradation(grid)
    assert verdict.plain.rises is None
    assert verdict.residual.rises is None
    assert verdict.counterparts.falls is None
    models = tuple(dict.fromkeys(cell.model for cell in grid))
    for study in ("depth", "shortcuts"):
        folder = tmp_path / study
        write_grid(
            Grid(study=study, models=models, seeds=(2,) * 4, data="cifar10",
                 recipe="cifar10-paper", budget="1000it"),
            folder,
        )  # fmt: skip
        for cell in grid:
            run = read_cell(folder, cell.model, cell.seed).folder
            run.mkdir(parents=True)
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cell.rows))
            (run / "result.json").write_text('{"data": "cifar10"}')
        report = write_grid_page(folder)
        assert report.lead.startswith("Not converged: 1,000 iterations (2.6 epochs), training")
        assert report.lead.count("onverged") == 1
        assert "train worse" not in report.lead
        page = report.report.read_text(encoding="utf-8")
        assert page.count('<li class="open">') == 3
        assert '<li class="good">' not in page
        assert '<li class="bad">' not in page


def test_deep_network_that_is_still_falling_is_reported():
    grid = [
        *cells("cifar-plain20", LEVEL[:3] + (5,) * 7, LEVEL[:3] + (4,) * 7),
        *cells("cifar-plain56", FALLING, FALLING),
    ]
    verdict = judge_degradation(grid)
    assert verdict.plain.rises is True
    assert verdict.statement.startswith("Degradation within 64,000 iterations: ")
    assert "of cifar-plain56 was still falling when its runs ended (by 12.5 points" in (
        verdict.statement
    )


def test_one_run_is_counted_once():
    verdict = judge_degradation([*cells("cifar-plain20", (9,)), *cells("cifar-plain56", (50,))])
    assert "1 run of each" in verdict.statement


def test_digits_are_studied_by_their_own_recipe_and_never_mirrored():
    for grid in (depth_grid(models=["cifar-plain20"]), shortcut_grid(models=["cifar-resnet20"])):
        assert grid.recipe == "digits"
    assert depth_grid(models=["cifar-plain20"], data="cifar10").recipe == "cifar10-paper"


@pytest.mark.parametrize(
    ("error", "rows", "words"),
    [
        (89.0, [], "untrained"),
        (70.0, [], "barely trained"),
        (40.0, [], ""),
        (
            40.0,
            curve(90, 60, epochs=4.0, steps=80),
            "80 iterations (4 epochs), training error 60.0%",
        ),
        (12.0, curve(90, 60, epochs=4.0, steps=80), ""),
        (40.0, curve(*FALLING, epochs=100), ""),  # mixed images are why, as likely as not
    ],
)
def test_caution(tmp_path, error, rows, words):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    for where in (tmp_path, tmp_path / "checkpoints" / "last.safetensors"):
        said = find_caution(where, error, 10, measured_on="held-out")
        assert words in said
        assert bool(said) is bool(words)
