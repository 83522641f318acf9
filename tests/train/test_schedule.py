"""Learning rates: the paper's milestones, scaling, plateau and the error-triggered warm-up."""

import random

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from resnets.config import ScheduleSpec
from resnets.recipes import recipe
from resnets.train.optim.schedule import Schedule


def test_paper_schedule_divides_at_32k_and_48k():
    plan = Schedule(recipe("cifar10-paper").schedule, 0.1, 64_000)
    rates = [plan.lr(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_a_tenth_of_the_budget_moves_the_milestones():
    plan = Schedule(recipe("cifar10-paper").schedule, 0.1, 6_400)
    assert plan.lr(3_199) == pytest.approx(0.1)
    assert plan.lr(3_200) == pytest.approx(0.01)
    assert plan.lr(4_800) == pytest.approx(0.001)


def test_one_cycle_rises_then_falls_to_zero():
    plan = Schedule(ScheduleSpec(kind="one-cycle", warmup=0.2), 0.4, 100)
    rates = [plan.lr(step) for step in range(100)]
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 20
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.005)


def test_cosine_ends_at_its_final_share():
    plan = Schedule(ScheduleSpec(kind="cosine", final=0.1), 1.0, 1000)
    assert plan.lr(0) == pytest.approx(1.0)
    assert plan.lr(500) == pytest.approx(0.55)
    assert plan.lr(1000) == pytest.approx(0.1)


def test_warm_up_holds_until_the_error_falls_and_survives_a_restart():
    spec = ScheduleSpec(hold_until_error=80.0)
    plan = Schedule(spec, 0.1, 64_000)
    assert plan.lr(0) == pytest.approx(0.01)
    for _ in range(20):
        plan.observe_step(90.0)
    assert plan.holding
    other = Schedule(spec, 0.1, 64_000)
    other.load_state_dict(plan.state_dict())
    steps = 0
    while other.holding:
        other.observe_step(50.0)
        plan.observe_step(50.0)
        steps += 1
    assert not plan.holding
    assert 5 < steps < 60
    assert other.lr(0) == pytest.approx(0.1)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_lowers_the_rate_when_torch_does(patience):
    spec = ScheduleSpec(kind="plateau", patience=patience, gamma=0.1)
    plan = Schedule(spec, 0.1, 1000)
    optimizer = SGD([torch.zeros(1)], lr=0.1)
    theirs = ReduceLROnPlateau(optimizer, factor=0.1, patience=patience, threshold=0, eps=0)
    generator = random.Random(patience)
    for step in range(60):
        error = float(generator.randint(1, 20))
        plan.observe_evaluation(error)
        theirs.step(error)
        assert plan.lr(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        again = Schedule(spec, 0.1, 1000)
        again.load_state_dict(plan.state_dict())
        plan = again
    assert plan.plateau_factor < 0.1


def test_a_run_of_version_0_1_keeps_its_rule():
    """It lowered the rate one evaluation earlier; its state has no patience."""
    plan = Schedule(ScheduleSpec(kind="plateau", patience=2), 0.1, 1000)
    plan.observe_evaluation(40.0)
    old = plan.state_dict()
    del old["patience"]
    plan.load_state_dict(old)
    for step in range(2):
        assert plan.lr(step) == pytest.approx(0.1)
        plan.observe_evaluation(41.0)
    assert plan.lr(2) == pytest.approx(0.01)
