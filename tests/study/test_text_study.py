"""The depth study of transformers: names, verdict in bits per character, and the page."""

import csv
from pathlib import Path

import pytest

from resnets.config import ConfigError
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import depth_grid
from resnets.study.depth.verdict import judge_degradation
from resnets.study.grid.budget import survey_grid
from resnets.study.grid.cells import Cell, Grid, cell_recipe, write_grid
from resnets.study.grid.model_names import family_name, network_spec
from resnets.study.metric import BITS
from resnets.train.run import run_training

MODELS = ("plain-transformer1", "plain-transformer2", "transformer1", "transformer2:hyper")
SETTINGS = (
    "transformer.width=8",
    "transformer.heads=2",
    "transformer.context=16",
    "batch_size=8",
    "eval.every=6it",
    "data.val_fraction=0.01",
    "data.test_fraction=0.01",
)


def grid(**changes):
    fields = {
        "models": MODELS, "seeds": (1,) * len(MODELS), "data": "sonnets", "recipe": "text",
        "budget": "6it", "settings": SETTINGS, "iterations": 6, "epoch": 3,
    }  # fmt: skip
    return Grid(**fields | changes)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text-study")
    made = grid()
    write_grid(made, folder)
    for model, seed in made.runs:
        name = f"{model.replace(':', '-')}-seed{seed}"
        run_training(
            cell_recipe(made, model, seed), folder / "cells" / name, device="cpu", quiet=True
        )
    return write_grid_page(folder)


def read(page, name):
    with open(page.folder / "numbers" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_reports_bits_of_text(page):
    text = page.report.read_text(encoding="utf-8")
    assert "bits per character" in text
    for word in ("top1", "one view per image", "training images", "%</td>", "weighted layers"):
        assert word not in text
    assert "error" not in page.lead
    rows = read(page, "error-curves")
    assert {row["model"] for row in rows} == set(MODELS)
    assert all(3 < float(row[BITS.key]) < 8 for row in rows)


def test_page_counts_transformers_and_measures_their_streams(page):
    parameters = {row["model"]: int(row["parameters"]) for row in read(page, "models-compared")}
    assert parameters["plain-transformer1"] == parameters["transformer1"]
    assert parameters["transformer2:hyper"] > parameters["plain-transformer2"]
    norms = read(page, "stream-norms")
    blocks = [row for row in norms if row["model"] == "transformer2:hyper"]
    assert [row["block"] for row in blocks] == ["0", "1", "2"]
    assert all(float(row["root mean square"]) > 0 for row in norms)


def runs(model, *values):
    for seed, value in enumerate(values):
        rows = [
            {"kind": "train", "step": step, "epoch": step / 100, BITS.key: each}
            for step, each in ((300, 5.0), (350, value), (400, value))
        ]
        yield Cell(model, seed, Path("nowhere"), "done", None, rows, {})


def test_verdict_is_in_bits_and_within_the_iterations():
    cells = [
        *runs("plain-transformer1", 2.3, 2.31),
        *runs("plain-transformer16", 4.5, 4.51),
        *runs("transformer1", 0.5, 0.51),
        *runs("transformer16", 0.52, 0.53),
    ]
    for cell in cells:  # of a vocabulary of two, as the catalog has it
        cell.rows[-1][BITS.key] /= 6
    verdict = judge_degradation(cells)
    assert verdict.plain.rises is True
    assert verdict.plain.points == pytest.approx(2.2 / 6)
    assert verdict.residual.rises is False
    assert verdict.statement.startswith("Degradation within 400 iterations")
    assert "bits" in verdict.statement
    assert "%" not in verdict.statement.replace("90%", "")


def test_a_network_at_the_frequency_baseline_is_not_evidence():
    cells = [*runs("plain-transformer4", 0.9, 0.91), *runs("plain-transformer16", 0.95, 0.96)]
    assert judge_degradation(cells).plain.rises is None


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("transformer8", "residual", "pre-norm"),
        ("plain-transformer8", "residual", "none"),
        ("transformer8:deepnorm", "residual", "deepnorm"),
        ("transformer8:mhc:streams=2", "streams", 2),
    ],
)
def test_names_say_depth_form_and_fields(model, field, value):
    spec = network_spec(model)
    assert getattr(spec, field) == value
    assert spec.depth == 8
    assert spec.name == model
    assert family_name(spec)


@pytest.mark.parametrize("models", ["transformer8:B", "transformer", "plain-transformer0"])
def test_unknown_names_are_refused(models):
    with pytest.raises(ConfigError):
        grid(models=(models,), seeds=(1,))


def test_transformers_and_networks_of_images_are_not_compared():
    with pytest.raises(ConfigError, match="families"):
        grid(models=("transformer2", "cifar-resnet8"), seeds=(1, 1))
    with pytest.raises(ConfigError, match="text"):
        cell_recipe(grid(recipe="digits"), "transformer1", 0)


def test_preset_and_defaults_of_transformers():
    assert depth_grid("text").models[0] == "plain-transformer1"
    made = depth_grid(models=["transformer2"])
    assert (made.data, made.recipe) == ("sonnets", "text")


def test_a_budget_is_resolved_from_windows_and_timed_steps():
    found = survey_grid(grid(models=MODELS[:1], seeds=(1,), iterations=0), "cpu", timed=True)
    assert found.examples > 5000
    assert found.seconds[MODELS[0]] > 0
