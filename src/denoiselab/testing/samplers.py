"""Checks of a sampler: order, network calls, reproducibility, and where it ends."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from denoiselab.noise import Noise
from denoiselab.samplers import Sampler, Tally
from denoiselab.schedules import VPLinear
from denoiselab.testing.convergence import Grid, errors, slope, weak_errors
from denoiselab.testing.oracles import F64, flow_map, gaussian, measured, mixture, unbounded

_VP, _INSIDE = VPLinear(), VPLinear()
_INSIDE.t_max, _INSIDE.t_min = _VP.time_of(torch.tensor([-2.0, 2.0], dtype=F64)).tolist()


def check_sampler(sampler: Sampler) -> None:
    """Check that a sampler is what its class declares, on distributions whose exact solution is known.

    Its order of convergence is the declared one (`no_order` says why there is none); a run makes as many network calls
    as `nfe` says; it draws noise if and only if it is stochastic, and the same seed gives the same samples to the bit;
    a deterministic one ends where the probability-flow ODE does. A threshold is left out.

    Raises:
        AssertionError: If it is not; the message has the declared and the measured value.
    """
    for check in CHECKS:
        check(prepared(copy.copy(sampler)))


def prepared(sampler: Sampler) -> Sampler:
    """The sampler for the distributions of these checks, which are unbounded."""
    x0 = 0.7 + 0.4 * Noise(9, torch.arange(200)).normal((1,), F64)
    return measured(unbounded(sampler), gaussian(), x0)


def has_its_order(sampler: Sampler) -> None:
    """Check the order of the ODE's solution, with the tolerance, or weak: whichever the sampler declares."""
    name = type(sampler).__name__
    order = sampler.convergence_order
    if order is None:
        assert sampler.no_order, f"{name}.convergence_order is None: no_order must say why."
        return
    if sampler.adaptive:
        found, slack = _adaptive_order(sampler), 0.3
    elif sampler.stochastic:
        found, slack = _weak_order(sampler), 0.15
    else:
        most = 192 * (1 if order < 3 else 2 if order < 5 else 4) // sampler.calls_per_step
        counts = [most // 4, most // 2, most]
        found, slack = slope(counts, errors(sampler, _own_grid(sampler), counts, sampler.spacing.to_clean)), 0.15
    assert found >= order - slack, f"{name}.convergence_order is {order}: the measured order is {found:.2f}."


def spends_its_calls(sampler: Sampler) -> None:
    """Check the number of network calls, which an adaptive sampler does not foresee."""
    name = type(sampler).__name__
    for steps in (1, 2, 3, 8):
        tally = Tally()
        sampler(tally.counted(mixture()), _VP, (1,), Noise(0, torch.arange(3)), steps=steps, dtype=F64)
        if sampler.adaptive:
            said = "nothing was raised"
            try:
                sampler.nfe(steps, _VP)
            except ValueError as error:
                said = str(error)
            assert "chooses its own steps" in said, f"{name}.nfe: must raise ValueError: it is adaptive; found: {said}"
            continue
        stated = sampler.nfe(steps, _VP)
        assert tally.calls == stated, f"{name}.nfe({steps}) is {stated}: {tally.calls} calls were made."


def draws_noise_if_stochastic(sampler: Sampler) -> None:
    """Check that runs of two seeds from one x_T differ if the sampler is stochastic, and that a seed repeats a run."""
    start, name = torch.linspace(-1, 1, 5, dtype=F64)[:, None], type(sampler).__name__
    a, b, again = (
        sampler(mixture(), _VP, (1,), Noise(seed, torch.arange(5)), steps=5, start=start, dtype=F64)
        for seed in (0, 1, 0)
    )
    assert torch.equal(a, again), f"{name}: two runs of one seed differ."
    differ = not torch.equal(a, b)
    assert differ == sampler.stochastic, f"{name}.stochastic is {sampler.stochastic}: runs of two seeds " + (
        "differ." if differ else "are equal."
    )


def ends_on_the_data(sampler: Sampler) -> None:
    """Check that a deterministic sampler ends where the exact flow does, from x_T to its last level."""
    if sampler.stochastic:
        return
    levels = sampler.grid(_VP, None if sampler.adaptive else max(100, sampler.steps))
    noise = Noise(0, torch.arange(64))
    start = levels[0].sigma * noise.normal((1,), F64)
    x = sampler.run(mixture(), _VP, levels, start, noise)
    error = float((x[:, 0] - flow_map(mixture(), start[:, 0], levels[0], levels[-1])).abs().median())
    assert error < 0.03, f"{type(sampler).__name__}: ends {error:.3g} (median) from the exact flow's end."


CHECKS: tuple[Callable[[Sampler], None], ...] = (
    has_its_order,
    spends_its_calls,
    draws_noise_if_stochastic,
    ends_on_the_data,
)


def _own_grid(sampler: Sampler) -> Grid:
    """The noisy levels of the sampler's own grid, between half log-SNRs of -2 and 2."""
    return lambda schedule, count: [level for level in sampler.grid(_INSIDE, count) if not level.is_end]


def _weak_order(sampler: Sampler) -> float:
    """Of the errors of mean and variance; strong noise takes many steps to show its order."""
    assert sampler.convergence_order is not None
    found = 0.0
    for most in (128, 512, 1024):
        counts = [most // 4, most // 2, most]
        by_count = weak_errors(sampler, counts, _own_grid(sampler))
        if by_count[-1] < 1e-12:
            return float(sampler.convergence_order)
        if (found := slope(counts, by_count)) >= sampler.convergence_order - 0.15:
            break
    return found


def _adaptive_order(sampler: Sampler) -> float:
    """Of the errors against the calls, as tolerances fall: the last four of as many as 800 calls allow."""
    start, calls, found = torch.tensor([[0.8]], dtype=F64), [], []
    noisy = [level for level in sampler.grid(_VP) if not level.is_end]
    for digits in range(2, 12):
        own, tally = copy.copy(sampler), Tally()
        vars(own).update(rtol=10.0**-digits, atol=10.0**-digits)
        x = own.run(tally.counted(mixture()), _VP, noisy, start, Noise(0, torch.arange(1)))
        found.append(float((x[:, 0] - flow_map(mixture(), start[:, 0], noisy[0], noisy[-1])).abs()))
        calls.append(tally.calls)
        if calls[-1] > 800:
            break
    return slope(calls[-4:], found[-4:])
