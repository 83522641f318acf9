"""The verdict on degradation: what it claims, what it leaves open, and its uncertainty."""

import statistics
from pathlib import Path

import pytest

from resnets.study.depth.verdict import judge_degradation
from resnets.study.grid.cells import Cell


def cell(model, seed, error, status="done"):
    """A run of `model` whose last rows of training error are 100 and `error`."""
    rows = [{"kind": "train", "step": 10, "top1_error": 100.0}]
    rows += [{"kind": "train", "step": 20, "top1_error": error}]
    rows += [{"kind": "test", "step": 20, "top1_error": 0.0}]
    return Cell(model, seed, Path("nowhere"), status, None, rows, {} if status == "done" else None)


def runs(net, *errors):
    return [cell(net, seed, error) for seed, error in enumerate(errors)]


PLAIN_DEGRADES = [
    *runs("cifar-plain20", 2.0, 2.4, 1.9),
    *runs("cifar-plain56", 60.0, 75.0, 70.0),
]
RESIDUAL_DOES_NOT = [
    *runs("cifar-resnet20", 2.0, 2.2, 2.1),
    *runs("cifar-resnet56", 1.6, 1.9, 1.8),
]


def test_degradation_of_plain_networks_alone():
    verdict = judge_degradation(PLAIN_DEGRADES + RESIDUAL_DOES_NOT)
    assert verdict.plain.rises is True
    assert verdict.residual.rises is False
    assert verdict.statement.startswith(
        "Degradation: deeper plain networks train worse, deeper residual networks do not."
    )
    assert verdict.plain.points == pytest.approx(66.2333, abs=1e-3)
    assert verdict.counterparts.falls is True
    assert "from 2.10% (cifar-plain20) to 68.33% (cifar-plain56)" in verdict.statement


def test_interval_is_welchs():
    """Against scipy's own two-sample test."""
    stats = pytest.importorskip("scipy.stats")
    first, second = (2.0, 2.4, 1.9), (60.0, 75.0, 70.0, 66.0)
    verdict = judge_degradation(runs("cifar-plain20", *first) + runs("cifar-plain56", *second))
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.9)
    assert verdict.plain.interval == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_no_degradation_seen_here():
    plain = runs("cifar-plain20", 9.1, 9.0, 9.2) + runs("cifar-plain32", 7.0, 7.2, 7.1)
    verdict = judge_degradation(plain)
    assert verdict.plain.rises is False
    assert verdict.residual is None
    assert verdict.statement.startswith("No degradation seen here")


def test_a_significant_but_tiny_rise_is_not_degradation():
    """As measured on the digits: 0.08, 0.16 and 0.08% against three times zero."""
    tiny = runs("cifar-resnet20", 0.0, 0.0, 0.0) + runs("cifar-resnet56", 0.08, 0.16, 0.08)
    verdict = judge_degradation(PLAIN_DEGRADES + tiny)
    assert verdict.residual.interval[0] > 0
    assert verdict.residual.rises is False


def test_one_seed_is_not_enough_to_say():
    verdict = judge_degradation(runs("cifar-plain20", 2.0) + runs("cifar-plain56", 70.0))
    assert verdict.plain.rises is None
    assert verdict.plain.points == 68.0
    assert verdict.plain.interval is None
    assert verdict.statement.startswith("Not enough seeds to say")


def test_seeds_that_differ_too_much_leave_it_open():
    verdict = judge_degradation(
        runs("cifar-plain20", 1.0, 12.0, 2.0) + runs("cifar-plain56", 5.0, 60.0, 30.0)
    )
    assert verdict.plain.rises is None
    assert verdict.statement.startswith("Too uncertain to say")


def test_equal_runs_need_no_spread():
    verdict = judge_degradation(runs("cifar-plain20", 0.0, 0.0) + runs("cifar-plain56", 0.0, 0.0))
    assert verdict.plain.interval == (0.0, 0.0)
    assert verdict.plain.rises is False


def test_residual_networks_may_degrade_too():
    worse = runs("cifar-resnet20", 2.0, 2.1, 2.0) + runs("cifar-resnet1202", 9.0, 9.4, 9.1)
    verdict = judge_degradation(PLAIN_DEGRADES + worse)
    assert verdict.residual.rises is True
    assert "plain and residual alike" in verdict.statement


def test_only_finished_runs_count_and_the_others_are_named():
    unfinished = [
        cell("cifar-plain110", 0, 88.0, "failed"),
        cell("cifar-plain56", 3, 1.0, "running"),
        cell("cifar-resnet110", 0, 50.0, "missing"),
    ]
    verdict = judge_degradation(PLAIN_DEGRADES + unfinished)
    assert verdict.plain.second.model == "cifar-plain56"
    assert statistics.fmean(verdict.plain.second_errors) == pytest.approx(68.333, abs=1e-3)
    assert "(cifar-plain110, cifar-plain56, cifar-resnet110)" in verdict.statement


def test_one_shortcut_option_is_compared_with_itself():
    """The deep net of option A is not held against the shallow one of option B."""
    mixed = [
        *runs("cifar-resnet20:B", 1.0, 1.1),
        *runs("cifar-resnet32", 3.0, 3.1),
        *runs("cifar-resnet56", 2.0, 2.1),
    ]
    verdict = judge_degradation(mixed)
    assert verdict.residual.first.model == "cifar-resnet32"
    assert verdict.residual.second.model == "cifar-resnet56"


def test_nothing_finished():
    verdict = judge_degradation([cell("cifar-plain20", 0, 5.0, "missing")])
    assert verdict.plain is None
    assert verdict.statement.startswith("No answer on degradation")
