"""No recipe that benchmarks/gpu.py trains as CUDA graphs has settings that graphs do not support.

On a CPU plain calls stand in for graphs, so `--tiny` would not notice.
"""

import importlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from paths import ROOT

import resnets.api.train
import resnets.study.grid.grid
from resnets.config import Recipe
from resnets.study.grid.cells import Grid, cell_recipe
from resnets.train.cuda_graph.start import recipe_obstacles


class Stop(BaseException):
    """Raised where a training would start: nothing may handle it."""


@pytest.fixture
def checks(monkeypatch) -> Callable[[str], ModuleType]:
    """Import a module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def setting(checks, tmp_path) -> Any:
    """Of full size, on a CPU."""
    deadline = time.monotonic() + 1000
    return checks("gpu_checks.case").Setting(
        torch.device("cpu"), tmp_path, tmp_path, deadline, tiny=False
    )


def assert_no_obstacles(found: list[Recipe]) -> None:
    assert [list(recipe_obstacles(recipe)) for recipe in found] == [[]] * len(found)


def test_whole_recipes_can_be_graphs(setting, checks, monkeypatch) -> None:
    full, found = checks("gpu_checks.full"), []

    def train(_: Any, members: list[Any], limit: float) -> list[Any]:
        found.extend(recipe for recipe, *_ in members)
        return []

    monkeypatch.setattr(full, "_train", train)
    for case in [*full.first(setting)[:1], *full.others(setting)]:
        case.run()
    names = {f"cifar-resnet{depth}" for depth in (20, 32, 44, 56, 110)}
    names |= {"cifar-plain20", "cifar-plain56", "cifar-speedrun"}
    assert {recipe.model.name for recipe in found} == names
    assert len(found) == 5 + 10 + 10  # the first case, others, seeds of the speedrun
    assert_no_obstacles(found)


def test_the_steps_that_are_timed_can_be_graphs(setting, checks, monkeypatch) -> None:
    """`ladder`, `correct`, `waits`, `at-once` and `resnet50`."""
    found: list[Recipe] = []

    def record(_: Any, recipe: Recipe, *rest: Any) -> None:
        found.append(recipe)
        raise Stop

    ladder, correct, resnet50 = modules = [
        checks(f"gpu_checks.{name}") for name in ("ladder", "correct", "resnet50")
    ]
    for module in modules:
        monkeypatch.setattr(module, "Training", record)
        monkeypatch.setattr(module, "random_images", lambda *_: None)
    monkeypatch.setattr(type(setting), "require_cuda", lambda self: None)
    cases = [*ladder.cases(setting), *ladder.seeds_at_once(setting)]
    cases += [
        each for each in ladder.waits(setting) if ladder.WAIT_SETTINGS[each.name][0] == ladder.GRAPH
    ]
    cases += [each for each in correct.cases(setting) if each.run.func is correct._graph]
    runs = [each.run for each in cases] + [lambda: resnet50._package_step(setting, resnet50.GRAPH)]
    for run in runs:
        with pytest.raises(Stop):
            run()
    names = {f"cifar-resnet{depth}" for depth in (20, 56, 110)} | {"resnet50"}
    assert {recipe.model.name for recipe in found} == names
    assert len(found) == len(runs)
    assert_no_obstacles(found)


def test_commands_with_graphs_have_no_obstacles(setting, checks, monkeypatch) -> None:
    commands, found = checks("gpu_checks.commands"), []

    def run_training(recipe: Recipe, *_: Any, **__: Any) -> None:
        found.append(recipe)
        raise Stop

    def check_settings(grid: Grid) -> None:
        found.extend(cell_recipe(grid, model, seed=0) for model in grid.models)
        raise Stop

    monkeypatch.setattr(resnets.api.train, "run_training", run_training)
    monkeypatch.setattr(resnets.study.grid.grid, "check_settings", check_settings)
    graphs = [
        each for each in (*commands.BASICS, *commands.OTHERS) if commands.GRAPH in each.arguments
    ]
    for command in graphs:
        with pytest.raises(Stop):
            commands._call(setting, command)
    assert [recipe.cuda_graph for recipe in found] == [True] * 3  # a run, and the study twice
    assert_no_obstacles(found)
