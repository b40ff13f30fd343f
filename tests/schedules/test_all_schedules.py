"""Every schedule of conf/schedule: against 50-digit arithmetic, automatic differentiation, and its own contract."""

import bisect
import math

import mpmath as mp
import pytest
import torch
from configurations import names
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import F64
from schedule_formulas import error, formula, number, schedule

from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like

NAMES = names("schedule")


def times(name, count, *, ends=True):
    """Points of the range; without the ends, away from the knots of a table too."""
    s = schedule(name)
    t = torch.linspace(s.t_min, s.t_max, count, dtype=F64)
    if ends:
        return t
    t = t[1:-1]
    return t if s.steps is None else ((t * s.steps).floor() + 0.5) / s.steps


@pytest.mark.parametrize("name", NAMES)
def test_alpha_sigma_and_log_snr_in_50_digits(name):
    with torch.no_grad():
        level = schedule(name).level(times(name, 50))
    for t, alpha, sigma, lam in zip(level.t, level.alpha, level.sigma, level.lam, strict=True):
        want_alpha, want_sigma = formula(name)(number(t))
        assert error(sigma, want_sigma) < 1e-12, (t, "sigma")
        if want_alpha < 1e-40:  # pure noise: cos(pi / 2) in 50 digits
            assert alpha == 0
            assert lam == -math.inf
            continue
        assert error(alpha, want_alpha) < 1e-12, (t, "alpha")
        want = mp.log(want_alpha / want_sigma)
        assert abs(number(lam) - want) < 1e-12 * max(abs(want), mp.mpf("0.01")), (t, "lam")


@pytest.mark.parametrize("name", NAMES)
def test_drift_and_diffusion_in_50_digits(name):
    t = times(name, 8, ends=False)
    with torch.no_grad():
        f, g2 = schedule(name).drift_diffusion(t)
    for ti, fi, gi in zip(t, f, g2, strict=True):
        alpha, sigma = formula(name)(number(ti))
        step = mp.mpf(10) ** -20
        (a0, s0), (a1, s1) = formula(name)(number(ti) - step), formula(name)(number(ti) + step)
        d_alpha, d_sigma = (a1 - a0) / (2 * step), (s1 - s0) / (2 * step)
        want_f = d_alpha / alpha
        assert abs(number(fi) - want_f) <= 1e-9 * abs(want_f) + mp.mpf("1e-30"), ti
        assert error(gi, 2 * sigma * (d_sigma - want_f * sigma)) < 1e-9, ti


@pytest.mark.parametrize("name", NAMES)
def test_drift_and_diffusion_by_reverse_mode(name):
    """Independent of the forward mode that the library uses: through log alpha and sigma^2."""
    t = times(name, 30, ends=False).requires_grad_()
    s = schedule(name)
    log_alpha, variance = s.alpha(t).log().sum(), s.sigma(t).square().sum()
    d_log = torch.autograd.grad(log_alpha, t, allow_unused=True)[0] if log_alpha.requires_grad else None
    d_log = torch.zeros_like(t) if d_log is None else d_log
    d_variance = torch.autograd.grad(variance, t)[0]
    f, g2 = s.drift_diffusion(t.detach())
    assert torch.allclose(f, d_log, rtol=1e-10, atol=1e-14)
    assert torch.allclose(g2, d_variance - 2 * d_log * s.sigma(t).square(), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_falls_and_the_range_is_honest(name):
    with torch.no_grad():
        level = schedule(name).level(times(name, 2001))
    assert (level.lam.diff() < 0).all()
    assert (level.sigma > 0).all()
    assert (level.alpha[:-1] > 0).all()
    assert level.path is schedule(name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NAMES)
@given(u=st.floats(0, 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_round_trip_through_the_log_snr(name, dtype, u):
    """t -> lam -> t, and lam -> t -> lam; the first only as well as lam tells times apart."""
    s = schedule(name)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-6
    eps = torch.finfo(dtype).eps
    t = torch.tensor([s.t_min + u * (s.t_max - s.t_min)], dtype=dtype).clamp(s.t_min, s.t_max)
    with torch.no_grad():
        lam = s.level(t).lam
        if not lam.isfinite():
            return
        back = s.at(lam)
        d_alpha, d_sigma = s.derivatives(t)
        slope = (d_alpha / s.alpha(t) - d_sigma / s.sigma(t)).abs()
    assert back.t.dtype == dtype
    # An error of one unit in lam's last place, and in those of the two logarithms it is made of, moves t so far.
    blur = 8 * eps * (1 + lam.abs()) / slope
    assert (back.t - t).abs() <= tolerance * t.abs() + blur
    assert (back.lam - lam).abs() <= tolerance * (1 + lam.abs()) + 8 * eps * slope * t


@pytest.mark.parametrize("name", NAMES)
def test_closed_inverses_agree_with_bisection(name):
    s = schedule(name)
    with torch.no_grad():
        t = times(name, 41)[:-1]
        lam = s.level(t).lam
        assert torch.allclose(s.time_of(lam), t, rtol=1e-9, atol=1e-13)
        assert torch.allclose(Schedule.time_of(s, lam), t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rel", "tiny"), [(torch.float64, 1e-9, 1e-12), (torch.float32, 1e-6, 1e-7)])
@pytest.mark.parametrize("name", NAMES)
def test_levels_beyond_the_range_are_the_ends(name, dtype, rel, tiny):
    s = schedule(name)
    with torch.no_grad():
        level = s.at(torch.tensor([math.inf, 60.0, -60.0, -math.inf], dtype=dtype))
    assert level.t.tolist() == pytest.approx([s.t_min, s.t_min, s.t_max, s.t_max], rel=rel, abs=tiny)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "learned"])
def test_levels_are_made_on_the_device_of_the_times(name):
    """No path mixes in a tensor of another device: the meta device refuses what a GPU would."""
    s, t = schedule(name), torch.rand(3, device="meta")
    level = s.level(t)
    around = [s.at(level.lam), s.previous(level, 20), s.following(level, 20)]
    tensors = [x for at in (level, *around) for x in (at.t, at.alpha, at.sigma)]
    for tensor in (*tensors, *s.derivatives(t), *s.drift_diffusion(t)):
        assert tensor.device.type == "meta"
        assert tensor.dtype == torch.float32
        assert tensor.shape == (3,)


@pytest.mark.parametrize("name", NAMES)
def test_grids_stay_on_the_cpu_whatever_the_default_device(name):
    s = schedule(name)
    with torch.no_grad(), torch.device("meta"):
        nodes, clean = s.nodes(20), Level.clean()
    assert nodes.t.device.type == nodes.alpha.device.type == clean.sigma.device.type == "cpu"
    assert nodes.t.dtype == clean.t.dtype == F64


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_steps_through_its_nodes(name):
    s = schedule(name)
    with torch.no_grad():
        nodes = s.nodes(None if s.steps else 20)
        count = len(nodes.t)
        assert count == (s.steps or 20)
        assert nodes.t[0] == s.t_min
        assert nodes.t[-1] == s.t_max
        before = s.previous(nodes, None if s.steps else 20)
        after = s.following(nodes, None if s.steps else 20)
    assert before.alpha[0] == 1
    assert before.sigma[0] == 0
    assert torch.allclose(before.sigma[1:], nodes.sigma[:-1], rtol=1e-9)
    assert torch.allclose(before.alpha[1:], nodes.alpha[:-1], rtol=1e-9)
    assert torch.allclose(after.sigma[:-1], nodes.sigma[1:], rtol=1e-9)
    assert after.sigma[-1] == nodes.sigma[-1]


@pytest.mark.parametrize("name", NAMES)
def test_normalise_keeps_the_ratio_and_the_family(name):
    s = schedule(name)
    if name == "sub_vp":
        with pytest.raises(ValueError, match="SubVP"):
            s.normalise(torch.ones(1), torch.ones(1))
        return
    with torch.no_grad():
        level = s.level(times(name, 9)[:-1])
        alpha, sigma = s.normalise(3 * level.alpha, 3 * level.sigma)
    assert torch.allclose(alpha, level.alpha, rtol=1e-13)
    assert torch.allclose(sigma, level.sigma, rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_float32_levels_are_accurate_relative_to_themselves(name):
    """Levels in float32 at float32 times equal the float64 ones of the same times, sigma near the data too."""
    s = schedule(name)
    t = times(name, 200)[:-1].float().clamp(s.t_min, s.t_max)
    with torch.no_grad():
        single, double = s.level(t), s.level(t.double())
    assert single.alpha.dtype == torch.float32
    assert torch.allclose(single.sigma.double(), double.sigma, rtol=2e-6)
    # alpha near pure noise is as good as 1 - t is.
    room = (1 - t.double()).clamp_min(1e-9)
    assert ((single.alpha.double() - double.alpha).abs() <= double.alpha * (2e-6 + 1e-7 / room)).all()


def test_published_end_points():
    """Half log-SNR at the ends, to the digits of the table of known schedules."""
    known = {
        "ddpm": (4.605, -5.059),
        "ldm": (3.250, -4.429),
        "stable_diffusion": (3.535, -2.682),
        "iddpm": (5.047, -9.918),
        "discrete_sigmoid": (4.405, -5.067),
        "const": (1.946, -10.10),
        "jsd": (3.453, -math.inf),
    }
    for name, (first, last) in known.items():
        lam = schedule(name).nodes().lam
        assert float(lam[0]) == pytest.approx(first, abs=1e-3), name
        assert float(lam[-1]) == pytest.approx(last, abs=5e-3), name


def test_levels_of_a_batch_are_levels_one_by_one():
    s = schedule("ddpm")
    t = times("ddpm", 9)
    whole = s.level(t)
    for i, ti in enumerate(t):
        one = s.level(ti)
        assert one.alpha.ndim == 0
        assert one.alpha == whole.alpha[i]
        assert one.sigma == whole.sigma[i]
    x = torch.ones(9, 2, 3)
    assert like(whole.alpha, x).shape == (9, 1, 1)
    assert isinstance(whole.unbind()[0], Level)
    assert bisect.bisect(sorted(whole.sigma.tolist()), float(whole.sigma[4])) == 5
