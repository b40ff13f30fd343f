"""Parameterizations: every schedule, both precisions, both ends; against exact arithmetic and the papers' forms."""

import functools
from fractions import Fraction

import pytest
import torch
from configurations import build, names
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from oracles import F64

from denoiselab import parameterizations
from denoiselab.parameterizations import determinant, posterior_mean, solve
from denoiselab.schedules import EDM, DiscreteVP, Flow, Level, VPLinear, betas
from denoiselab.schedules.base import like

NAMES = names("parameterization")
SCHEDULES = names("schedule")
STEPS = 1000


@functools.cache
def schedule(name):
    torch.manual_seed(0)
    return build("schedule", name, *(["width=8"] if name == "learned" else []))


@functools.cache
def parameterization(name, steps=None):
    own = build("parameterization", name)
    return functools.partial(own, steps=steps) if name == "previous_mean" else own


def coefficients(name, path, level):
    return parameterization(name, None if path.steps else STEPS)(level)


def at(alpha, sigma, path=None):
    return Level(torch.zeros(1, dtype=F64), torch.tensor([alpha], dtype=F64), torch.tensor([sigma], dtype=F64), path)


def edm(alpha, sigma):
    """F's coefficients for data of deviation 1/2, to 50 digits."""
    with mp.workdps(50):
        alpha, sigma = (mp.mpf(f.numerator) / f.denominator for f in (alpha, sigma))
        scale = mp.sqrt(alpha**2 / 4 + sigma**2) / 2
        return Fraction(mp.nstr(sigma / scale, 45)), Fraction(mp.nstr(-alpha / 4 / scale, 45))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NAMES)
@given(path=st.sampled_from(SCHEDULES), u=st.floats(0, 1), x0=st.integers(-2000, 2000), eps=st.integers(-4000, 4000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_round_trips(name, path, dtype, u, x0, eps):
    """(x0, eps) -> (x, out) -> (x0, eps) -> (x, out): the middle pair to the precision times the condition of the
    system, |matrix| |inverse|; the last one to the precision of the terms that are added on the way."""
    path = schedule(path)
    t = torch.tensor([path.t_min + u * (path.t_max - path.t_min)], dtype=F64)
    with torch.no_grad():
        level = path.level(t)
        a, b = coefficients(name, path, level)
        det = determinant(level, (a, b))
    if det == 0 or not det.isfinite():  # eps, score and the like at pure noise
        assert level.alpha == 0
        return
    tolerance = 1e-12 if dtype is torch.float64 else 1e-6
    clean, noise = torch.tensor([[x0 / 1000]], dtype=dtype), torch.tensor([[eps / 1000]], dtype=dtype)

    def forward(clean, noise):
        x = like(level.alpha, clean) * clean + like(level.sigma, clean) * noise
        return x, like(a, clean) * clean + like(b, clean) * noise

    x, out = forward(clean, noise)
    got_clean, got_noise = solve(x, out, level, (a, b))
    assert got_clean.dtype == dtype
    size = clean.abs() + noise.abs()
    inverse = (b.abs() + level.sigma + level.alpha + a.abs()) / det.abs()
    matrix = torch.maximum(level.alpha + level.sigma, a.abs() + b.abs())
    condition = float((inverse * matrix).clamp_min(1))
    assert (got_clean - clean).abs() <= tolerance * condition * size
    assert (got_noise - noise).abs() <= tolerance * condition * size
    again_x, again_out = forward(got_clean, got_noise)
    part_clean = (b.abs() * x.abs() + level.sigma * out.abs()) / det.abs()
    part_noise = (level.alpha * out.abs() + a.abs() * x.abs()) / det.abs()
    assert (again_x - x).abs() <= tolerance * (level.alpha * part_clean + level.sigma * part_noise)
    assert (again_out - out).abs() <= tolerance * (a.abs() * part_clean + b.abs() * part_noise)


EXACT = {
    "eps": lambda alpha, sigma: (0, 1),
    "x0": lambda alpha, sigma: (1, 0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "score": lambda alpha, sigma: (0, -1 / sigma),
    "ncsn": lambda alpha, sigma: (0, -1),
    "edm": edm,
    "velocity": lambda alpha, sigma: (-1, 1),  # on straight paths
}


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 1e-6), (1e-6, 1.0), (0.6, 0.8)])
@pytest.mark.parametrize("source", EXACT)
@pytest.mark.parametrize("target", EXACT)
def test_conversions_in_exact_arithmetic_near_both_ends(source, target, alpha, sigma):
    """out of one parameterization -> (x0, eps) -> out of another, against fractions, in float64 and float32."""
    level = at(alpha, sigma, Flow())
    for dtype, tolerance in ((F64, 1e-14), (torch.float32, 4e-7)):
        x, out = (torch.tensor([[value]], dtype=dtype) for value in (0.7, -1.3))
        pair = solve(x, out, level, parameterization(source)(level))
        a, b = parameterization(target)(level)
        got = like(a, x) * pair[0] + like(b, x) * pair[1]

        al, si, fx, fo = (Fraction(float(value)) for value in (alpha, sigma, x, out))
        sa, sb = (Fraction(value) for value in EXACT[source](al, si))
        det = al * sb - si * sa
        clean, noise = (sb * fx - si * fo) / det, (al * fo - sa * fx) / det
        ta, tb = (Fraction(value) for value in EXACT[target](al, si))
        want = ta * clean + tb * noise
        # What the inputs' own rounding allows: every product in the exact chain, once.
        inner = abs(ta) * (abs(sb * fx) + abs(si * fo)) + abs(tb) * (abs(al * fo) + abs(sa * fx))
        assert abs(Fraction(float(got)) - want) <= Fraction(tolerance) * inner / abs(det)


@pytest.mark.parametrize("name", ["v", "edm", "x0", "velocity"])
def test_defined_at_pure_noise(name):
    level = Flow().level(torch.ones(1, dtype=F64))
    a, b = parameterization(name)(level)
    x, x0 = torch.tensor([[0.4]], dtype=F64), torch.tensor([[-0.2]], dtype=F64)
    got = solve(x, like(a, x) * x0 + like(b, x) * x, level, (a, b))
    assert torch.allclose(got[0], x0)
    assert torch.allclose(got[1], x)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_the_preconditioning_of_its_paper(sigma_data):
    """D = c_skip x + c_out F on the path alpha = 1, so F = (x0 - c_skip (x0 + sigma eps)) / c_out."""
    level = EDM().level(torch.logspace(-2.6, 1.9, 20, dtype=F64))
    sigma = level.sigma
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
    a, b = parameterizations.edm(level, sigma_data)
    assert torch.allclose(a, (1 - c_skip) / c_out, rtol=1e-9)
    assert torch.allclose(b, -c_skip * sigma / c_out, rtol=1e-12)


def test_edm_with_unit_data_is_minus_v_on_a_variance_preserving_path():
    level = VPLinear().level(torch.linspace(1e-3, 1, 20, dtype=F64))
    for ours, v in zip(parameterizations.edm(level, 1.0), parameterizations.v(level), strict=True):
        assert torch.allclose(ours, -v, rtol=1e-13)


def test_edm_target_has_unit_variance():
    level = VPLinear().level(torch.linspace(1e-3, 1, 20, dtype=F64))
    a, b = parameterizations.edm(level, 0.5)
    assert torch.allclose((0.5 * a) ** 2 + b**2, torch.ones_like(a), rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_velocity_is_the_derivative_of_the_path(name):
    path = schedule(name)
    u = torch.linspace(0.05, 0.95, 7, dtype=F64)
    if path.steps:
        u = ((u * path.steps).floor() + 0.5) / path.steps
    t = (path.t_min + u * (path.t_max - path.t_min)).requires_grad_()
    x = path.alpha(t) * 0.3 + path.sigma(t) * -1.7
    want = torch.autograd.grad(x.sum(), t)[0]
    a, b = parameterizations.velocity(path.level(t.detach()))
    assert torch.allclose(a * 0.3 + b * -1.7, want, rtol=1e-9)
    with pytest.raises(ValueError, match="made by no schedule"):
        parameterizations.velocity(at(1.0, 1.0))


def test_previous_mean_is_that_of_ddpm():
    """sqrt(abar_{t-1}) beta / (1 - abar_t) x0 + sqrt(alpha) (1 - abar_{t-1}) / (1 - abar_t) x_t (eq. 7)."""
    beta = betas.linear(50, 1e-3, 0.2, per=50)
    bar = (1 - beta).cumprod(0)
    before = torch.cat((torch.ones(1, dtype=F64), bar[:-1]))
    on_x0 = before.sqrt() * beta / (1 - bar)
    on_x = (1 - beta).sqrt() * (1 - before) / (1 - bar)
    level = DiscreteVP(beta).nodes()
    a, b = parameterizations.previous_mean(level)
    assert torch.allclose(a, on_x0 + on_x * bar.sqrt(), rtol=1e-11)
    assert torch.allclose(b, on_x * (1 - bar).sqrt(), rtol=1e-9, atol=1e-15)
    steps = parameterizations.previous_mean(VPLinear().nodes(50), 50)
    there = VPLinear().previous(VPLinear().nodes(50), 50)
    ends = posterior_mean(VPLinear().nodes(50), there)
    assert torch.allclose(steps[0], ends[0] * VPLinear().nodes(50).alpha + ends[1], rtol=1e-12)
    keep, gain = posterior_mean(level, level.path.previous(level))
    assert torch.allclose(keep, on_x, rtol=1e-9, atol=1e-15)
    assert torch.allclose(gain, on_x0, rtol=1e-9)
