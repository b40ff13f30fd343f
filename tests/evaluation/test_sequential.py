import itertools
import math

import pytest
import torch

from denoiselab.evaluation.verdicts.sequential import (
    Decisions,
    always_valid_multiple,
    planned_looks,
    simulated_multiple,
    wanted,
)


def exchangeable(cells, common=0.7):
    return torch.eye(cells, dtype=torch.float64) * (1 - common) + common


def test_looks_grow_by_the_root_of_two_from_four_dimensions_up_to_the_maximum():
    assert planned_looks(64, 1024) == [256, 362, 512, 724, 1024]
    assert planned_looks(2048, 20_000) == [8192, 11585, 16384, 20_000]
    assert planned_looks(2, 300) == [256, 300]
    assert planned_looks(2, 256) == [256]
    assert planned_looks(2, 800, strata=200) == [400, 566, 800]
    with pytest.raises(ValueError, match=r"max_samples=4000: .*= 8192 samples"):
        planned_looks(2048, 4000)


@pytest.mark.parametrize(("cells", "fixed", "six"), [(2, 1.960, 2.54), (6, 2.850, 3.38), (15, 3.391, 3.86)])
def test_the_simulated_boundary_has_the_multiples_of_the_tables(cells, fixed, six):
    looks = [256 * 2**i for i in range(6)]
    assert simulated_multiple(exchangeable(cells), [1000], 0.05) == pytest.approx(fixed, abs=0.03)
    assert simulated_multiple(exchangeable(cells), looks, 0.05) == pytest.approx(six, abs=0.035)


def test_the_simulated_boundary_of_one_pair_is_that_of_the_recursive_integral():
    """Armitage, McPherson and Rowe, 1969: the density of the sum that has not crossed, carried from look to look."""
    looks, grid = [1.0, 2.0, 4.0, 8.0], torch.linspace(-12, 12, 1201, dtype=torch.float64)
    crit = simulated_multiple(exchangeable(2), looks, 0.05, draws=200_000)
    step = float(grid[1] - grid[0])
    density, before = None, 0.0
    for n in looks:
        kernel = torch.exp(-((grid[:, None] - grid) ** 2) / 2 / (n - before)) / math.sqrt(2 * math.pi * (n - before))
        start = kernel[:, len(grid) // 2] if density is None else kernel @ density * step
        density, before = torch.where(grid.abs() <= crit * math.sqrt(n), start, 0.0), n
    assert 1 - float(density.sum() * step) == pytest.approx(0.05, abs=0.002)


def test_cells_of_the_same_samples_are_left_out_of_the_boundary():
    two = exchangeable(2)
    three = two[[0, 1, 1]][:, [0, 1, 1]]
    assert simulated_multiple(three, [100], 0.05) == pytest.approx(1.96, abs=0.03)
    assert simulated_multiple(1e-9 * three, [100], 0.05) == pytest.approx(1.96, abs=0.03)
    assert simulated_multiple(torch.ones(2, 2), [100], 0.05) == 0


def test_the_always_valid_boundary_has_the_multiples_of_the_table():
    table = {1: (3.59, 3.23, 3.04, 3.14), 15: (4.38, 4.06, 3.89, 3.97), 105: (4.84, 4.54, 4.39, 4.46)}
    for pairs, multiples in table.items():
        for share, multiple in zip((1 / 8, 1 / 4, 1, 4), multiples, strict=True):
            assert always_valid_multiple(int(1600 * share), 1600, 0.05, pairs) == pytest.approx(multiple, abs=0.006)


def test_peeking_at_a_tie_is_wrong_once_in_twenty_by_either_boundary_and_not_by_the_fixed_one():
    looks = [256 * 2**i for i in range(6)]
    rng = torch.Generator().manual_seed(3)
    n = torch.tensor(looks, dtype=torch.float64)
    steps = n.diff(prepend=torch.zeros(1, dtype=torch.float64)).sqrt()
    sums = (torch.randn(2000, 6, generator=rng, dtype=torch.float64) * steps).cumsum(1)
    multiples = (sums / n.sqrt()).abs()
    simulated = simulated_multiple(exchangeable(2), looks, 0.05)
    always = torch.tensor([always_valid_multiple(n, looks[-1] / 4, 0.05) for n in looks])
    assert 0.15 < float((multiples > 1.96).any(1).double().mean()) < 0.25
    assert float((multiples > simulated).any(1).double().mean()) == pytest.approx(0.05, abs=0.015)
    assert float((multiples > always).any(1).double().mean()) < 0.02


def compared(losses, errors, cells=None, n=256, multiple=3.0, into=None):
    losses = torch.tensor(losses, dtype=torch.float64)
    cells = range(len(losses)) if cells is None else cells
    into = into or Decisions.none(len(losses))
    index = torch.tensor([*cells])
    into.compare([*cells], n, losses[index, None] - losses[index], torch.tensor(errors)[index][:, index], multiple)
    return into


def test_a_pair_that_is_decided_stays_decided_and_an_open_one_is_compared_again():
    error = (0.1 * (1 - torch.eye(3))).tolist()
    decisions = compared([1.0, 1.2, 2.0], error)
    assert decisions.decided.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    assert decisions.better.tolist() == [[False, False, True], [False, False, True], [False, False, False]]
    compared([3.0, 1.0, 2.0], error, n=512, into=decisions)  # the first cell now looks worse than the third
    assert decisions.n.tolist() == [[0, 512, 256], [512, 0, 256], [256, 256, 0]]
    assert decisions.better.tolist() == [[False, False, True], [True, False, True], [False, False, False]]
    again = Decisions.read(decisions.state())
    assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(decisions).values(), strict=True))


def test_a_look_at_some_cells_leaves_the_pairs_of_others():
    decisions = compared([1.0, 1.1, 1.2], (0.1 * (1 - torch.eye(3))).tolist())
    compared([1.0, 1.1, 5.0], (0.1 * (1 - torch.eye(3))).tolist(), cells=[0, 2], n=512, into=decisions)
    assert decisions.n.tolist() == [[0, 256, 512], [256, 0, 256], [512, 256, 0]]
    assert decisions.better.nonzero().tolist() == [[0, 2]]


def test_the_same_samples_tie_and_need_no_more():
    decisions = compared([1.0, 1.0], [[0.0, 0.0], [0.0, 0.0]])
    assert decisions.tied.tolist() == [[False, True], [True, False]]
    assert decisions.decided.any()
    assert not decisions.better.any()


def test_a_cell_is_dominated_by_one_of_equal_or_less_cost_alone():
    decisions = compared([1.0, 2.0, 3.0, 0.5], (0.1 * (1 - torch.eye(4))).tolist())
    assert decisions.dominated([10, 10, 5, 20]) == [None, 0, None, None]
    assert decisions.dominated([10, 10, 20, 20]) == [None, 0, 3, None]  # by the best of those that are better


def test_wanted_pairs_are_the_best_of_each_budget_and_each_cell_with_the_best_of_no_greater_cost():
    """The definition, over all pairs, on random frontiers."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        losses = torch.rand(9, generator=rng).tolist()
        costs = [5, 5, 5, 10, 9, 10, 20, 20, 20]
        budgets = [5, 5, 5, 10, 10, 10, 20, 20, 20]
        kept = [cell for cell in range(9) if torch.rand((), generator=rng) < 0.8]
        expected = set()
        for i, j in itertools.combinations(kept, 2):
            best = min((cell for cell in kept if budgets[cell] == budgets[i]), key=losses.__getitem__)
            if budgets[i] == budgets[j] and best in (i, j):
                expected.add((i, j))
        for j in kept:
            rivals = [i for i in kept if costs[i] < costs[j] or (costs[i] == costs[j] and losses[i] < losses[j])]
            if rivals:
                best = min(rivals, key=losses.__getitem__)
                expected.add((min(best, j), max(best, j)))
        assert {*wanted(losses, costs, budgets, kept)} == expected
