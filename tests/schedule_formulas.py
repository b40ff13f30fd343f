"""The schedules of conf/schedule by name, and the papers' formulas of them in 50 digits."""

import functools

import mpmath as mp
import torch
from configurations import build

from denoiselab.schedules import Schedule

mp.mp.dps = 50


@functools.cache
def schedule(name) -> Schedule:
    torch.manual_seed(0)
    return build("schedule", name, *(["width=8"] if name == "learned" else []))


def number(x):
    """A double, exactly."""
    return mp.mpf(float(x))


def vp(log_alpha_bar):
    """(alpha, sigma) of a variance-preserving path from log alpha^2."""
    return lambda t: (mp.exp(log_alpha_bar(t) / 2), mp.sqrt(-mp.expm1(log_alpha_bar(t))))


def linear_integral(t):
    return -(number(0.1) * t + (20 - number(0.1)) * t**2 / 2)


def fitted_integral(t):
    """The quadratic without a constant that is log(1 + rho^2) at 0.001 and at 1."""
    first, end, last = number(1e-3), mp.log1p(number(0.002) ** 2), mp.log1p(6400)
    return -t * (last + (1 - t) / (1 - first) * (end / first - last))


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
        "vp_edm": lambda: vp(fitted_integral),
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


def error(got, want):
    """Relative error of a double against a 50-digit number."""
    return abs(number(got) - want) / abs(want) if want != 0 else abs(number(got))
