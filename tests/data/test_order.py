"""Order and random numbers are pure functions of (seed, epoch, sample)."""

import numpy as np
import pytest

from resnets.data import order


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (7, 7), (5, 12), (1, 4)])
def test_each_epoch_holds_every_sample_once(n: int, batch: int) -> None:
    parts = [order.positions(n, 3, k * batch, batch) for k in range(4 * n)]
    epoch = np.concatenate([part[0] for part in parts])
    index = np.concatenate([part[1] for part in parts])
    assert all(len(part[0]) == batch for part in parts)
    for each in range(4 * batch):
        assert sorted(index[epoch == each]) == list(range(n))


def test_positions_do_not_depend_on_where_reading_starts() -> None:
    epoch, index = order.positions(100, 5, 0, 450)
    for start, count in ((0, 450), (99, 2), (130, 64), (449, 1)):
        again = order.positions(100, 5, start, count)
        np.testing.assert_array_equal(again[0], epoch[start : start + count])
        np.testing.assert_array_equal(again[1], index[start : start + count])


def test_epochs_and_seeds_are_ordered_differently() -> None:
    orders = {tuple(order.permutation(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_permutation_is_fair() -> None:
    first = [order.permutation(5, seed, 0)[0] for seed in range(5000)]
    assert np.bincount(first).min() > 900  # 1000 expected, standard deviation 28


def test_uniform_is_a_function_of_each_word() -> None:
    ids = np.arange(1000)
    base = order.uniform(1, 2, ids, 3)
    np.testing.assert_array_equal(base, order.uniform(1, np.full(1000, 2), ids, 3))
    assert order.uniform(1, 2, 17, 3) == base[17]
    for other in (
        order.uniform(0, 2, ids, 3),
        order.uniform(1, 1, ids, 3),
        order.uniform(1, 2, ids + 1000, 3),
        order.uniform(1, 2, ids, 4),
        order.uniform(2, 1, ids, 3),
    ):
        assert not np.isin(base, other).any()
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.12


def test_uniform_is_uniform() -> None:
    values = order.uniform(0, 0, np.arange(100_000), 0)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, 100, (0, 1))[0]
    chi_squared = ((counts - 1000) ** 2 / 1000).sum()
    assert 55 < chi_squared < 155  # 99 degrees of freedom: p is about 1e-4 on either side


def test_numbers_never_drift() -> None:
    """Runs are repeated from their seed: these numbers may not change, on any platform."""
    bits = order.random_bits(42, 7, np.array([0, 1]), 3)
    assert [hex(value) for value in bits.tolist()] == ["0x3a65ba50cc08a13a", "0x728019ae08813f09"]
    assert order.permutation(8, 42, 0).tolist() == [4, 2, 1, 7, 5, 3, 0, 6]
    assert order.random_bits(-1, 0, 0, 0) == order.random_bits(2**64 - 1, 0, 0, 0)


@pytest.mark.parametrize(("n", "repeats", "batch"), [(12, 3, 6), (10, 3, 4), (7, 2, 5), (5, 1, 2)])
def test_repeats_follow_one_another_and_epochs_stay_as_long(
    n: int, repeats: int, batch: int
) -> None:
    parts = [order.positions(n, 3, k * batch, batch, repeats) for k in range(4 * n)]
    drawn = np.concatenate([part[0] for part in parts]).reshape(-1, n)
    index = np.concatenate([part[1] for part in parts]).reshape(-1, n)
    for epoch, row in enumerate(index):
        kept = order.permutation(n, 3, epoch)[: -(-n // repeats)]
        np.testing.assert_array_equal(row, np.repeat(kept, repeats)[:n])
    keys = set(zip(drawn.ravel(), index.ravel(), strict=True))
    assert len(keys) == drawn.size  # no two copies share their random numbers


def test_normal_numbers_are_normal() -> None:
    radius, angle = (order.uniform(0, 0, np.arange(50_000), stream) for stream in (0, 1))
    values = order.normal(radius, angle)
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.01
    assert np.isfinite(order.normal(np.zeros(1), np.zeros(1))).all()


LABELS = np.repeat([0, 2, 3], [90, 9, 1])  # no sample of class 1


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [34, 0, 33, 33]), (0.5, [70, 0, 22, 8]), (1.0, [90, 0, 9, 1])]
)
def test_balanced_epochs_have_the_shares_of_the_power(power: float, expected: list[int]) -> None:
    draw = order.BalancedDraw(LABELS, power)
    for epoch in range(3):
        _, rows = draw(len(LABELS), 5, epoch)
        counts = np.bincount(LABELS[rows], minlength=4)
        assert counts.sum() == len(LABELS)
        assert np.abs(counts - expected).max() <= 1


def test_balanced_draws_of_a_class_come_in_rounds() -> None:
    """Each of its samples once in a round, and no draw of a sample shares its random numbers."""
    draw = order.BalancedDraw(LABELS, 0.0)
    epochs, rows = order.positions(100, 5, 0, 1000, draw=draw)
    assert len(set(zip(epochs.tolist(), rows.tolist(), strict=True))) == 1000
    times = np.bincount(rows, minlength=100)
    for label in (0, 2, 3):
        of_class = times[label == LABELS]
        assert of_class.max() - of_class.min() <= 1
    orders = {tuple(draw(100, seed, epoch)[1]) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize("repeats", [1, 3])
def test_balanced_positions_do_not_depend_on_where_reading_starts(repeats: int) -> None:
    epoch, index = order.positions(100, 5, 0, 450, repeats, order.BalancedDraw(LABELS, 0.5))
    assert len(set(zip(epoch.tolist(), index.tolist(), strict=True))) == 450
    for start, count in ((99, 2), (130, 64), (449, 1)):
        draw = order.BalancedDraw(LABELS, 0.5)
        again = order.positions(100, 5, start, count, repeats, draw)
        np.testing.assert_array_equal(again[0], epoch[start : start + count])
        np.testing.assert_array_equal(again[1], index[start : start + count])
