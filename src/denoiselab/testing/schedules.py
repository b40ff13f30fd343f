"""Checks of a schedule: monotonicity, derivatives, inverses, precision, devices, chains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.schedules import Level, Schedule
from denoiselab.testing.oracles import F64


@torch.no_grad()
def check_schedule(schedule: Schedule) -> None:
    """Check that a schedule is a path of noise levels that every part of this package can use.

    Half log-SNR falls along it; `time_of` inverts it; drift and diffusion are its derivatives; float32 levels are as
    accurate as float32 times are, also near the data; levels lie on the device of their times; a chain steps through
    its nodes.

    Raises:
        AssertionError: If it is not; the message says what fails.
    """
    for check in CHECKS:
        check(schedule)


def times(schedule: Schedule, count: int, *, ends: bool = True) -> Tensor:
    """Points of the range; without the ends, away from the knots of a table too."""
    t = torch.linspace(schedule.t_min, schedule.t_max, count, dtype=F64)
    if ends:
        return t
    t = t[1:-1]
    return t if schedule.steps is None else ((t * schedule.steps).floor() + 0.5) / schedule.steps


def log_snr_falls(schedule: Schedule) -> None:
    """Check that half log-SNR decreases strictly, and that levels name their schedule."""
    level = schedule.level(times(schedule, 2001))
    rises = level.lam.diff() >= 0
    assert not bool(rises.any()), f"{_name(schedule)}: log-SNR does not fall after t = {_first(level.t[:-1], rises)}."
    assert bool((level.sigma > 0).all()), f"{_name(schedule)}.sigma: must be above 0 in [t_min, t_max]."
    assert bool((level.alpha[:-1] > 0).all()), f"{_name(schedule)}.alpha: must be above 0 before t_max."
    assert level.path is schedule, f"{_name(schedule)}.level: its levels must have the schedule as path."


def derivatives_agree(schedule: Schedule) -> None:
    """Check drift and diffusion against reverse mode, through log alpha and sigma^2."""
    with torch.enable_grad():
        t = times(schedule, 30, ends=False).requires_grad_()
        log_alpha, variance = schedule.alpha(t).log().sum(), schedule.sigma(t).square().sum()
        d_log = torch.autograd.grad(log_alpha, t, allow_unused=True)[0] if log_alpha.requires_grad else None
        d_log = torch.zeros_like(t) if d_log is None else d_log
        d_variance = torch.autograd.grad(variance, t)[0]
    f, g2 = schedule.drift_diffusion(t.detach())
    assert torch.allclose(f, d_log, rtol=1e-10, atol=1e-14), f"{_name(schedule)}: the drift is not (log alpha)'."
    wanted = d_variance - 2 * d_log * schedule.sigma(t.detach()).square()
    assert torch.allclose(g2, wanted, rtol=1e-9), f"{_name(schedule)}: the diffusion is not (sigma^2)' - 2 f sigma^2."


def inverts(schedule: Schedule) -> None:
    """Check `time_of` against bisection, and levels beyond the range."""
    t = times(schedule, 41)[:-1]
    lam = schedule.level(t).lam
    for time, tiny in ((schedule.time_of(lam), 1e-13), (Schedule.time_of(schedule, lam), 1e-12)):
        wrong = ~torch.isclose(time, t, rtol=1e-9, atol=tiny)
        assert not bool(wrong.any()), f"{_name(schedule)}.time_of: does not invert log-SNR at t = {_first(t, wrong)}."
    for dtype, tolerance, tiny in ((F64, 1e-9, 1e-12), (torch.float32, 1e-6, 1e-7)):
        found = schedule.at(torch.tensor([torch.inf, 60.0, -60.0, -torch.inf], dtype=dtype)).t.double()
        ends = torch.tensor([schedule.t_min] * 2 + [schedule.t_max] * 2, dtype=F64)
        assert torch.allclose(found, ends, rtol=tolerance, atol=tiny), (
            f"{_name(schedule)}.at: levels beyond the range must be its ends {ends.tolist()}, not {found.tolist()}."
        )


def single_precision_is_accurate(schedule: Schedule) -> None:
    """Check levels in float32 against float64 ones of the same times; near pure noise, alpha is as good as 1 - t."""
    t = times(schedule, 200)[:-1].float().clamp(schedule.t_min, schedule.t_max)
    single, double = schedule.level(t), schedule.level(t.double())
    assert single.alpha.dtype == single.sigma.dtype == torch.float32, f"{_name(schedule)}: must keep the dtype of t."
    wrong = ~torch.isclose(single.sigma.double(), double.sigma, rtol=2e-6)
    assert not bool(wrong.any()), f"{_name(schedule)}.sigma: is inaccurate in float32 at t = {_first(t, wrong)}."
    room = (1 - t.double()).clamp_min(1e-9)
    wrong = (single.alpha.double() - double.alpha).abs() > double.alpha * (2e-6 + 1e-7 / room)
    assert not bool(wrong.any()), f"{_name(schedule)}.alpha: is inaccurate in float32 at t = {_first(t, wrong)}."


def stays_on_the_device(schedule: Schedule) -> None:
    """Check that nothing is mixed with tensors of another device: the meta device refuses what a GPU would.

    A schedule with parameters lies on a device of its own, so only its grids are checked.
    """
    with torch.device("meta"):
        nodes, clean = schedule.nodes(20), Level.clean()
    assert nodes.t.device.type == nodes.alpha.device.type == clean.sigma.device.type == "cpu", (
        f"{_name(schedule)}.nodes: must be on the CPU, whatever the default device."
    )
    if any(True for _ in schedule.parameters()):
        return
    t = torch.rand(3, device="meta")
    level = schedule.level(t)
    around = [schedule.at(level.lam), schedule.previous(level, 20), schedule.following(level, 20)]
    tensors = [x for at in (level, *around) for x in (at.t, at.alpha, at.sigma)]
    for tensor in (*tensors, *schedule.derivatives(t), *schedule.drift_diffusion(t)):
        assert (tensor.device.type, tensor.dtype, tensor.shape) == ("meta", torch.float32, (3,)), (
            f"{_name(schedule)}: must keep device, dtype and shape of t."
        )


def steps_through_its_nodes(schedule: Schedule) -> None:
    """Check that `previous` and `following` of a chain's node are its neighbours; clean data precede the first."""
    length = None if schedule.steps else 20
    nodes = schedule.nodes(length)
    before, after = schedule.previous(nodes, length), schedule.following(nodes, length)
    fits = (
        len(nodes.t) == (schedule.steps or 20)
        and (float(nodes.t[0]), float(nodes.t[-1])) == (schedule.t_min, schedule.t_max)
        and (float(before.alpha[0]), float(before.sigma[0])) == (1, 0)
        and torch.allclose(before.sigma[1:], nodes.sigma[:-1], rtol=1e-9)
        and torch.allclose(before.alpha[1:], nodes.alpha[:-1], rtol=1e-9)
        and torch.allclose(after.sigma[:-1], nodes.sigma[1:], rtol=1e-9)
        and bool(after.sigma[-1] == nodes.sigma[-1])
    )
    assert fits, f"{_name(schedule)}: previous and following do not step through nodes()."


CHECKS: tuple[Callable[[Schedule], None], ...] = (
    log_snr_falls,
    derivatives_agree,
    inverts,
    single_precision_is_accurate,
    stays_on_the_device,
    steps_through_its_nodes,
)


def _name(schedule: Schedule) -> str:
    return type(schedule).__name__


def _first(t: Tensor, which: Tensor) -> float:
    return float(t[which][0])
