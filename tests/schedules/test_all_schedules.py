"""Every schedule of conf/schedule: against 50-digit arithmetic, automatic differentiation, and its own contract."""

import bisect
import functools
import math

import mpmath as mp
import pytest
import torch
from configurations import build, names
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import F64

from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like

NAMES = names("schedule")
mp.mp.dps = 50


@functools.cache
def schedule(name) -> Schedule:
    torch.manual_seed(0)
    return build("schedule", name, *(["width=8"] if name == "learned" else []))


def number(x):
    """A double, exactly."""
    return mp.mpf(float(x))


# ---------------------------------------------------------------- the papers' formulas, in 50 digits


def vp(log_alpha_bar):
    """(alpha, sigma) of a variance-preserving path from log alpha^2."""
    return lambda t: (mp.exp(log_alpha_bar(t) / 2), mp.sqrt(-mp.expm1(log_alpha_bar(t))))


def linear_integral(t):
    return -(number(0.1) * t + (20 - number(0.1)) * t**2 / 2)


def cosine_bar(t, s=None):
    s = number(0.008) if s is None else s
    return (mp.cos((t + s) / (1 + s) * mp.pi / 2) / mp.cos(s / (1 + s) * mp.pi / 2)) ** 2


def quadratic_integral(t):
    low, high = mp.sqrt(number(0.85)), mp.sqrt(12)
    return -((low + t * (high - low)) ** 3 - low**3) / (3 * (high - low))


def logistic(x):
    return 1 / (1 + mp.exp(-x))


def sigmoid_bar(t):
    return (logistic(3) - logistic(-3 + 6 * t)) / (logistic(3) - logistic(-3))


def from_bar(bar):
    return lambda t: (mp.sqrt(bar(t)), mp.sqrt(1 - bar(t)))


def laplace(t):
    side = 1 if t < mp.mpf("0.5") else -1
    return from_log_snr(-side * mp.mpf("0.5") * mp.log(1 - 2 * abs(t - mp.mpf("0.5"))))


def from_log_snr(log_snr):
    return mp.sqrt(logistic(log_snr)), mp.sqrt(logistic(-log_snr))


def shifted(t):
    alpha, sigma = from_bar(cosine_bar)(t)
    norm = mp.sqrt(alpha**2 / 4 + sigma**2)
    return alpha / 2 / norm, sigma / norm


def learned(t):
    """The monotone network, weight by weight."""
    net = schedule("learned")
    first, second, third, ends = (
        [number(x) for x in p.detach().flatten()] for p in (net.first, net.second, net.third, net.ends)
    )
    soft = [lambda x: mp.log1p(mp.exp(x))][0]
    weights, biases = second[: len(third)], second[len(third) :]

    def rise(u):
        line = soft(first[0]) * u + first[1]
        hidden = zip(third, weights, biases, strict=True)
        return line + sum(soft(c) * logistic(soft(w) * line + b) for c, w, b in hidden)

    fraction = (rise(t) - rise(mp.mpf(0))) / (rise(mp.mpf(1)) - rise(mp.mpf(0)))
    return from_log_snr(ends[0] + fraction * (ends[1] - ends[0]))


def table(betas):
    """A chain of betas with log alpha piecewise linear between i / T, data at 0."""
    logs, total = [mp.mpf(0)], mp.mpf(0)
    for beta in betas:
        total = total + mp.log(1 - beta) / 2 if beta < 1 else -mp.inf
        logs.append(total)
    return through(logs)


def through(logs):
    steps = len(logs) - 1

    def at(t):
        i = min(int(mp.floor(t * steps)), steps - 1)
        w = t * steps - i
        if logs[i + 1] == -mp.inf:
            alpha = mp.exp(logs[i]) * (1 - w)
            return alpha, mp.sqrt(1 - alpha**2)
        log_alpha = logs[i] + w * (logs[i + 1] - logs[i])
        return mp.exp(log_alpha), mp.sqrt(-mp.expm1(2 * log_alpha))

    return at


def line(start, end, steps):
    return [start + (end - start) * i / (steps - 1) for i in range(steps)]


def squares(start, end, steps):
    return [x**2 for x in line(mp.sqrt(start), mp.sqrt(end), steps)]


def rescaled(betas):
    """Lin et al., algorithm 1."""
    alphas, total = [], mp.mpf(1)
    for beta in betas:
        total *= 1 - beta
        alphas.append(mp.sqrt(total))
    first, last = alphas[0], alphas[-1]
    logs = [mp.mpf(0)] + [mp.log((a - last) * first / (first - last)) for a in alphas[:-1]]
    return through([*logs, -mp.inf])


def exploding(sigmas):
    """alpha = 1, log sigma piecewise linear."""
    steps = len(sigmas)
    logs = [mp.log(s) for s in sigmas]
    logs = [2 * logs[0] - logs[1], *logs]

    def at(t):
        i = min(int(mp.floor(t * steps)), steps - 1)
        return mp.mpf(1), mp.exp(logs[i] + (t * steps - i) * (logs[i + 1] - logs[i]))

    return at


def geometric(low, high, steps):
    return [mp.exp(x) for x in line(mp.log(low), mp.log(high), steps)]


LOW, HIGH = number(1e-4), number(0.02)


@functools.cache
def formula(name):
    warm = {f"warmup{n}": [*line(LOW, HIGH, 10 * n), *[HIGH] * (1000 - 10 * n)] for n in (10, 50)}
    cosine = [
        min(1 - cosine_bar(mp.mpf(i + 1) / 1000) / cosine_bar(mp.mpf(i) / 1000), number(0.999)) for i in range(1000)
    ]
    return {
        "vp_linear": lambda: vp(linear_integral),
        "vp_quadratic": lambda: vp(quadratic_integral),
        "vp_cosine": lambda: from_bar(cosine_bar),
        "vp_sigmoid": lambda: from_bar(sigmoid_bar),
        "sub_vp": lambda: lambda t: (mp.exp(linear_integral(t) / 2), -mp.expm1(linear_integral(t))),
        "ve": lambda: lambda t: (mp.mpf(1), number(0.01) * (50 / number(0.01)) ** t),
        "edm": lambda: lambda t: (mp.mpf(1), t),
        "flow": lambda: lambda t: (1 - t, t),
        "trigonometric": lambda: lambda t: (mp.cos(mp.pi / 2 * t), mp.sin(mp.pi / 2 * t)),
        "laplace": lambda: laplace,
        "shifted": lambda: shifted,
        "learned": lambda: learned,
        "ddpm": lambda: table(line(LOW, HIGH, 1000)),
        "ldm": lambda: table(squares(number(0.0015), number(0.0195), 1000)),
        "stable_diffusion": lambda: table(squares(number(0.00085), number(0.012), 1000)),
        "zero_snr": lambda: rescaled(squares(number(0.00085), number(0.012), 1000)),
        "iddpm": lambda: table(cosine),
        "const": lambda: table([HIGH] * 1000),
        "jsd": lambda: table([mp.mpf(1) / (1000 - i) for i in range(1000)]),
        "warmup10": lambda: table(warm["warmup10"]),
        "warmup50": lambda: table(warm["warmup50"]),
        "discrete_sigmoid": lambda: table(
            [LOW + (HIGH - LOW) * logistic(x) for x in line(mp.mpf(-6), mp.mpf(6), 1000)]
        ),
        "ncsn": lambda: exploding(geometric(number(0.01), mp.mpf(1), 10)),
        "ncsnv2": lambda: exploding(geometric(number(0.01), mp.mpf(50), 232)),
    }[name]()


def times(name, count, *, ends=True):
    """Points of the range; without the ends, away from the knots of a table too."""
    s = schedule(name)
    t = torch.linspace(s.t_min, s.t_max, count, dtype=F64)
    if ends:
        return t
    t = t[1:-1]
    return t if s.steps is None else ((t * s.steps).floor() + 0.5) / s.steps


def error(got, want):
    """Relative error of a double against a 50-digit number."""
    return abs(number(got) - want) / abs(want) if want != 0 else abs(number(got))


# ---------------------------------------------------------------- tests


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
