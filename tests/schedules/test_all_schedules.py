"""Every schedule of conf/schedule: against 50-digit arithmetic, automatic differentiation, and its own contract."""

import bisect
import math

import mpmath as mp
import pytest
import torch
from configurations import names
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_formulas import error, formula, number, schedule

from denoiselab.schedules import Level
from denoiselab.schedules.base import like
from denoiselab.testing.schedules import CHECKS, times

NAMES = names("schedule")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS)
@torch.no_grad()
def test_a_schedule_keeps_its_contract(name, check):
    check(schedule(name))


@pytest.mark.parametrize("name", NAMES)
def test_alpha_sigma_and_log_snr_in_50_digits(name):
    with torch.no_grad():
        level = schedule(name).level(times(schedule(name), 50))
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
    t = times(schedule(name), 8, ends=False)
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
def test_normalise_keeps_the_ratio_and_the_family(name):
    s = schedule(name)
    if name == "sub_vp":
        with pytest.raises(ValueError, match="SubVP"):
            s.normalise(torch.ones(1), torch.ones(1))
        return
    with torch.no_grad():
        level = s.level(times(schedule(name), 9)[:-1])
        alpha, sigma = s.normalise(3 * level.alpha, 3 * level.sigma)
    assert torch.allclose(alpha, level.alpha, rtol=1e-13)
    assert torch.allclose(sigma, level.sigma, rtol=1e-13)


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
    t = times(s, 9)
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
