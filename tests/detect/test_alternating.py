"""Four-step alternating training (Ren et al. 2015): what trains in each step, and what stays."""

import dataclasses
from pathlib import Path

import pytest
import torch
from detect_models import C4, FPN, NET, VGG, random_images, small_model, targets
from detect_sets import write_coco

from resnets.cli.train import _next_commands
from resnets.config import (
    ConfigError,
    DataSpec,
    DetectSpec,
    EvalSpec,
    FinetuneSpec,
    OptimSpec,
    Recipe,
)
from resnets.detect.models.build import load_detection_model
from resnets.detect.models.detector import Detector
from resnets.detect.models.predictor import Predictor
from resnets.train.run import run_training

SMALL = {"train_sizes": (48,), "max_size": 100, "proposals": (40, 20), "box_batch_size": 16}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, "train", [(80, 64), (64, 80), (90, 60), (64, 64)], 0)
    write_coco(root, "val", [(80, 64), (64, 80)], 1)
    return root


def step(root: Path, out: Path, weights: Path | None = None, **fields: object) -> Path:
    recipe = Recipe(
        name="step",
        task="detect",
        model=NET,
        data=DataSpec(source=str(root)),
        detect=dataclasses.replace(C4, **SMALL, **fields),  # type: ignore[arg-type]
        optim=OptimSpec(lr=0.02),
        finetune=FinetuneSpec(freeze_norm=True),
        eval=EvalSpec(every="2it"),
        duration="2it",
        batch_size=2,
        precision="float32",
        weights=None if weights is None else str(weights),
    )
    run_training(recipe, out, device="cpu", quiet=True)
    return out


@pytest.fixture(scope="module")
def steps(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Detector]:
    """The detector before the first step, and after each of the four."""
    root = tmp_path_factory.mktemp("steps")
    first = step(coco, root / "1", train_part="proposals")
    second = step(coco, root / "2", train_part="regions", proposals_from=str(first))
    third = step(coco, root / "3", second, train_part="proposals", freeze_shared=True)
    fourth = step(coco, root / "4", third, train_part="regions", freeze_shared=True)
    return [load_detection_model(each) for each in (first, second, third, fourth)]  # type: ignore[misc]


def changed(one: Detector, other: Detector) -> set[str]:
    """Parts whose weights differ: "net.stage4", "rpn", "roi_heads", ..."""
    theirs = other.state_dict()
    return {
        ".".join(name.split(".")[: 2 if name.startswith("net.") else 1])
        for name, value in one.state_dict().items()
        if name in theirs and not name.endswith("tracked") and not torch.equal(value, theirs[name])
    }


def test_each_step_changes_its_half_alone(steps: list[Detector]) -> None:
    _, second, third, fourth = steps
    assert changed(second, third) == {"rpn"}
    assert changed(third, fourth) == {"roi_heads", "net.stage4"}


def test_the_second_step_keeps_the_proposals_of_the_first(steps: list[Detector]) -> None:
    first, second, third, _ = steps
    assert second.proposer is not None
    assert changed(second.proposer, first) == set()
    assert third.proposer is None
    assert changed(first, second) >= {"net.stem", "net.stage1", "net.stage4", "rpn", "roi_heads"}


def test_proposals_alone_are_neither_evaluated_nor_used(steps: list[Detector]) -> None:
    with pytest.raises(ConfigError, match="regions only"):
        Predictor.of((steps[2],), steps[2].preprocess, torch.device("cpu"), "float32")
    assert Predictor.of((steps[3],), steps[3].preprocess, torch.device("cpu"), "float32")


@pytest.mark.parametrize(("spec", "net"), [(FPN, NET), (C4, NET), (C4, VGG)])
@pytest.mark.parametrize("part", ["proposals", "regions"])
@pytest.mark.parametrize("frozen", [False, True])
def test_losses_reach_what_trains_and_nothing_else(
    spec: DetectSpec, net: object, part: str, frozen: bool
) -> None:
    changed = dataclasses.replace(spec, train_part=part, freeze_shared=frozen)  # type: ignore[arg-type]
    model = small_model(changed, net=net).train()  # type: ignore[arg-type]
    losses = model(random_images(), targets())
    assert set(losses) == (
        {"loss_objectness", "loss_rpn_box_reg"}
        if part == "proposals"
        else {"loss_classifier", "loss_box_reg"}
    )
    sum(losses.values()).backward()
    reached = {name for name, each in model.named_parameters() if each.grad is not None}
    trains = {name for name, each in model.named_parameters() if each.requires_grad}
    assert reached == trains
    half = "rpn." if part == "proposals" else "roi_heads."
    assert {name for name in trains if name.startswith(("rpn.", "roi_heads."))} == {
        name for name, _ in model.named_parameters() if name.startswith(half)
    }
    shared = "net.stage1." in " ".join(trains)
    assert shared != frozen


def test_steps_that_would_start_from_nothing_are_refused(coco: Path, tmp_path: Path) -> None:
    for fields in (
        {"train_part": "regions"},
        {"train_part": "proposals", "freeze_shared": True},
        {"proposals_from": "runs/1"},
        {"train_part": "regions", "proposals_from": "runs/none"},
    ):
        with pytest.raises(ValueError, match=r"detect\.|runs/none"):
            step(coco, tmp_path / "run", None, **fields)
    assert not (tmp_path / "run").exists()


def test_the_next_commands_are_those_that_the_run_supports(steps: list[Detector]) -> None:
    found = [_next_commands(each.recipe, Path("run")) for each in steps]  # type: ignore[arg-type]
    first, third = (" ".join(found[number]) for number in (0, 2))
    assert "train_part=regions --set detect.proposals_from=run" in first
    assert "train_part=regions --set weights=run --set detect.freeze_shared=true" in third
    names = [{command.split()[0] for command in each} for each in found]
    assert names == [{"train"}, {"predict"}, {"train"}, {"predict", "export", "serve"}]
