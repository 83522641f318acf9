"""Blocks from outside the package in a study: cells of their own names, trained, resumed, shown."""

import dataclasses
from pathlib import Path

import pytest
from my_blocks import DoubledBlock

import resnets
from resnets.config import ConfigError, from_toml
from resnets.models import build
from resnets.models.resnet import BasicBlock
from resnets.study.depth.page import write_grid_page
from resnets.study.depth.presets import depth_grid
from resnets.study.grid.budget import custom_parts
from resnets.study.grid.cells import cell_recipe, write_grid
from resnets.study.grid.grid import check_blocks_given, train_grid
from resnets.study.grid.model_names import custom_block, family_name, model_spec
from resnets.study.grid.worker import train_cell
from resnets.study.run import run_study

MODEL = "cifar-resnet8:block=doubled"
BLOCKS = {"doubled": DoubledBlock}


def grid():
    found = depth_grid(
        models=["cifar-resnet8", MODEL],
        seeds=1,
        budget="20it",
        blocks=tuple(BLOCKS),
        settings=("precision=float32", "batch_size=16"),
    )
    return dataclasses.replace(found, iterations=20, epoch=20)


def test_names_of_custom_blocks() -> None:
    assert custom_block(MODEL) == "doubled"
    assert custom_block("cifar-resnet8:block=preact-basic") is None
    assert model_spec(MODEL).block == "basic"
    assert family_name(model_spec(MODEL)) == "residual, doubled"
    with pytest.raises(ConfigError, match="'doubled'"):
        depth_grid(models=[MODEL], budget="20it")


def test_blocks_that_a_process_cannot_import(tmp_path: Path) -> None:
    class Inside(BasicBlock):
        pass

    check_blocks_given(grid(), BLOCKS)
    with pytest.raises(ConfigError, match="must import"):
        check_blocks_given(grid(), {"doubled": Inside})
    with pytest.raises(ConfigError, match="give it again"):
        train_grid(grid(), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.ci
def test_a_cell_trains_its_own_block_and_the_page_counts_it(tmp_path: Path) -> None:
    write_grid(grid(), tmp_path)
    folder = tmp_path / "cells" / "cifar-resnet8-block-doubled-seed0"
    recipe = cell_recipe(grid(), MODEL, 0)
    train_cell(recipe, folder, "cpu", custom_parts(MODEL, BLOCKS))
    assert from_toml(folder / "recipe.toml").custom == {"block": "my_blocks.DoubledBlock"}
    report = write_grid_page(tmp_path, BLOCKS)
    rows = (tmp_path / "numbers/models-compared.csv").read_text(encoding="utf-8").splitlines()
    count = sum(each.numel() for each in build(model_spec("cifar-resnet8")).parameters())
    plain, doubled = (line.split(",") for line in rows[1:])
    assert doubled[0] == MODEL
    assert int(doubled[-2]) == int(plain[-2]) + 3  # a number for each block
    assert abs(int(plain[-2]) - count) < 2000  # other channels in, and classes
    write_grid_page(tmp_path)  # without the block it is not counted
    rows = (tmp_path / "numbers/models-compared.csv").read_text(encoding="utf-8").splitlines()
    assert rows[2].endswith(",,")
    assert report.report.is_file()


@pytest.mark.slow
def test_a_whole_study_and_its_resumption(tmp_path: Path) -> None:
    options = {"seeds": 1, "budget": "20it", "out": tmp_path / "study", "device": "cpu"}
    study = resnets.study.depth(["cifar-resnet8", MODEL], blocks=BLOCKS, **options)
    assert [cell.status for cell in study.cells] == ["done", "done"]
    again = run_study(
        depth_grid(models=["cifar-resnet8", MODEL], seeds=1, budget="20it", blocks=["doubled"]),
        tmp_path / "study",
        jobs=1,
        device="cpu",
        blocks=BLOCKS,
    )
    assert [cell.rows for cell in again.cells] == [cell.rows for cell in study.cells]
