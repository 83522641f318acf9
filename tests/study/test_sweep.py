"""Axes of a study: fields in the names of models, and each network at its own best rate."""

import csv
import dataclasses
from pathlib import Path

import pytest
from html_elements import Elements
from synthetic_study import write_runs

from resnets.config import ConfigError, replace_fields
from resnets.recipes import recipe
from resnets.report.figure_style import DARK_ON_IMAGE
from resnets.study.depth.best_of_sweep import group_sweep
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import depth_grid
from resnets.study.grid.cells import cell_recipe, read_cell, read_cells, read_grid
from resnets.study.grid.model_names import family_name, model_spec, split_names

NETS = ("cifar-plain8", "cifar-plain14", "cifar-resnet8", "cifar-resnet14")
RATES = ("0.01", "0.1", "0.3")
# Plain networks degrade at 0.1, because that rate is too high for 14 layers: at 0.01 they do not.
ENDS = {
    ("cifar-plain8", "0.01"): 4.0,
    ("cifar-plain8", "0.1"): 2.0,
    ("cifar-plain8", "0.3"): 9.0,
    ("cifar-plain14", "0.01"): 2.2,
    ("cifar-plain14", "0.1"): 30.0,
    ("cifar-plain14", "0.3"): None,
    ("cifar-resnet8", "0.01"): 5.0,
    ("cifar-resnet8", "0.1"): 1.0,
    ("cifar-resnet8", "0.3"): 3.0,
    ("cifar-resnet14", "0.01"): 6.0,
    ("cifar-resnet14", "0.1"): 1.1,
    ("cifar-resnet14", "0.3"): 0.9,
}


def swept_grid(**changes):
    grid = depth_grid(
        models=NETS, seeds=3, budget="100it", sweep=[f"optim.lr={','.join(RATES)}"], **changes
    )
    return dataclasses.replace(grid, iterations=100, epoch=10)


def error(model: str, seed: int) -> float | None:
    name, _, rate = model.partition(":optim.lr=")
    end = ENDS[name, rate]
    return None if end is None else end + 0.1 * seed


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("sweep") / "study", swept_grid(), error)


def test_names_carry_fields_of_model_and_recipe() -> None:
    grid = depth_grid(
        models=["cifar-resnet8:B:norm=none:branch_scale=skipinit:optim.lr=0.3"], budget="100it"
    )
    (model,) = grid.models
    spec = model_spec(model)
    assert (spec.shortcut, spec.norm, spec.branch_scale) == ("B", "none", "skipinit")
    recipe = cell_recipe(dataclasses.replace(grid, settings=("optim.lr=0.1",)), model, 2)
    assert recipe.optim.lr == 0.3  # the name's own value stands above that of all models
    assert dataclasses.replace(recipe.model, in_channels=3, input_size=32) == spec
    assert recipe.model.name == model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("cifar-resnet8:nrm=none", "did you mean model.norm"),
        ("cifar-resnet8:norm=layer", "norm"),
        ("cifar-resnet8:norm=none:norm=batch", "model.norm is given twice"),
        ("cifar-resnet8:seed=3", "seed"),
        ("cifar-resnet8:data.source=cifar10", "--data"),
        ("cifar-resnet8:optim.lrr=3", "optim.lrr"),
    ],
)
def test_fields_that_do_not_fit(model: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cell_recipe(depth_grid(models=[model], budget="100it"), model, 0)


def test_lists_in_names_and_sweeps() -> None:
    assert split_names("a:model.widths=[1,2,3], b") == ("a:model.widths=[1,2,3]", "b")
    grid = depth_grid(models=["cifar-resnet8"], sweep=["depths=[1,1,1],[2,2,2]"], seeds=2)
    assert grid.models == ("cifar-resnet8:depths=[1,1,1]", "cifar-resnet8:depths=[2,2,2]")
    assert [model_spec(model).num_layers for model in grid.models] == [8, 14]
    assert grid.seeds == (2, 2)
    assert grid.split_swept(grid.models[1]) == ("cifar-resnet8", ("[2,2,2]",))
    with pytest.raises(ConfigError, match="FIELD=VALUE"):
        depth_grid(models=["cifar-resnet8"], sweep=["optim.lr"])


def test_families_are_distinguished_by_form_not_by_depth_or_option() -> None:
    names = {
        "cifar-plain8": "plain",
        "cifar-resnet8": "residual",
        "cifar-resnet56:B": "residual",
        "cifar-preact-resnet8": "pre-activation",
        "cifar-resnet8:shortcut_gate=highway:gate_bias=-2": "residual, highway -2",
        "cifar-resnet8:norm=none:branch_scale=fixup": "residual, fixup, no norm",
    }
    assert {name: family_name(model_spec(name)) for name in names} == names


def test_each_network_at_its_own_best_rate(study: Path) -> None:
    grid, cells = read_grid(study), read_cells(study)
    assert grid == swept_grid()
    found = group_sweep(grid, cells, cell_recipe(grid, grid.models[0], 0))
    best = {each.name: each.best for each in found.networks}
    assert best == dict(zip(NETS, ("0.1", "0.01", "0.1", "0.3"), strict=True))
    assert [each.name for each in found.edges] == ["cifar-plain14", "cifar-resnet14"]
    assert found.networks[1].errors["0.3"] is None  # it diverged
    assert found.verdict.plain.points == pytest.approx(0.2)
    assert found.verdict.plain.rises is False
    fixed = dataclasses.replace(found, fixed="0.1").verdict_fixed
    assert fixed.plain.points == pytest.approx(28.0)
    assert fixed.plain.rises is True
    assert fixed.residual.rises is False


def test_no_run_chooses_its_own_rate() -> None:
    """Seed 2 is lucky at 0.01 and lifts its mean: the other two seeds would not choose that."""
    ends = {"0.01": (5.0, 5.0, 0.5), "0.1": (4.0, 4.0, 4.0)}
    grid = depth_grid(models=["cifar-plain8"], seeds=3, budget="100it", sweep=["optim.lr=0.01,0.1"])
    cells = [
        dataclasses.replace(cell, status="done", rows=[{"kind": "train", "top1_error": value}])
        for rate, values in ends.items()
        for seed, value in enumerate(values)
        for cell in [_missing(f"cifar-plain8:optim.lr={rate}", seed)]
    ]
    (network,) = group_sweep(grid, cells, None).networks
    assert network.best == "0.01"
    chosen = [cell.rows[0]["top1_error"] for cell in network.cross_validated()]
    assert chosen == [5.0, 5.0, 4.0]


def _missing(model: str, seed: int):
    from resnets.study.grid.cells import Cell

    return Cell(model, seed, Path("nowhere"), "missing", None, [], None)


def test_page_of_a_sweep(study: Path) -> None:
    report = write_grid_page(study)
    assert "No degradation seen here" in report.lead
    assert "may lie outside the sweep" in report.lead
    with open(study / "numbers" / "sweep.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(NETS) * len(RATES)
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["model"], row["optim.lr"]) for row in failed] == [("cifar-plain14", "0.3")]
    page = report.report.read_text(encoding="utf-8")
    assert DARK_ON_IMAGE in page  # the heat map's cells are the same in the dark theme
    text = Elements(page).text
    assert "--sweep optim.lr=0.01,0.1,0.3" in text
    assert "--models cifar-plain8,cifar-plain14,cifar-resnet8,cifar-resnet14" in text
    for name in ("sweep", "error-curves", "error-against-depth"):
        assert (study / "figures" / f"{name}.svg").is_file()


def test_no_sentence_of_a_sweep_ends_twice(tmp_path: Path) -> None:
    grid = depth_grid(
        models=NETS[2:], seeds=1, budget="100it", sweep=[f"optim.lr={','.join(RATES)}"]
    )
    grid = dataclasses.replace(grid, iterations=100, epoch=10)
    page = write_grid_page(write_runs(tmp_path / "study", grid, error))
    assert ".." not in page.lead


def test_fields_at_the_top_of_a_recipe_and_of_a_transformer_are_axes() -> None:
    sweep = ["optim.lr=0.01,0.1", "batch_size=64,128"]
    grid = depth_grid(models=["cifar-resnet8"], sweep=sweep, seeds=1, budget="100it")
    recipes = [cell_recipe(grid, model, 0) for model in grid.models]
    assert [each.batch_size for each in recipes] == [64, 128, 64, 128]
    cells = [read_cell(Path("none"), model, 0) for model in grid.models]
    assert group_sweep(grid, cells, recipe("digits")).fixed == "0.1, 64"

    grid = depth_grid(models=["transformer2"], sweep=["width=16,32"], seeds=1, budget="400it")
    assert [cell_recipe(grid, model, 0).transformer.width for model in grid.models] == [16, 32]
    cells = [read_cell(Path("none"), model, 0) for model in grid.models]
    assert (
        group_sweep(grid, cells, replace_fields(recipe("text"), {"transformer.width": 16})).fixed
        == "16"
    )
    with pytest.raises(ConfigError):
        depth_grid(models=["cifar-resnet8:seed=1"], budget="100it")
