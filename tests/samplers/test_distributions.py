"""What stochastic samplers draw, against exact draws of a mixture in the plane."""

import functools
import math

import pytest
import torch
from configurations import build, complete
from oracles import F64, draws, measured, unbounded, variant

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import langevin
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.transfer import Rho
from denoiselab.schedules import Level, VPLinear

# A sample is a cloud of points, so that the draws of a run fill whole blocks, and the step size of a corrector, a
# ratio of norms, has settled.
N, POINTS, STEPS = 20_000, 200, 500
# Other options than the shipped ones, with which samplers come near: Langevin's bias is of order snr^2, 3 % of the
# variance at 0.16; s_noise = 1.003 compensates networks that remove too much noise.
NEAR = {"snr": 0.1, "repeats": 2, "s_noise": 1.0}


@functools.cache
def sampler_of(name):
    sampler = variant(unbounded(build("sampler", name)), **NEAR)
    return variant(sampler, corrector_steps=4) if getattr(sampler, "predictor", sampler) is None else sampler


STOCHASTIC = {
    name: sampler_of(name)
    for name in complete("sampler")
    if sampler_of(name).stochastic and getattr(sampler_of(name), "eta", 0.0) < math.inf  # which is no diffusion
}
STOCHASTIC["ddim with noise"] = samplers.DDIM(eta=0.7)


def plane():
    return MixtureDenoiser(
        torch.tensor([[-1.0, -0.5], [0.8, 0.9], [0.6, -1.0]], dtype=F64),
        torch.tensor([0.25, 0.3, 0.2], dtype=F64),
        torch.tensor([0.5, 0.3, 0.2], dtype=F64),
    )


def energy(x, y):
    """Energy distance by paired blocks: a mean over 20 blocks of 1,000, and its standard error."""

    def between(a, b):
        return torch.cdist(a, b).mean()

    def within(a):
        return torch.cdist(a, a).sum() / (len(a) * (len(a) - 1))

    blocks = [2 * between(a, b) - within(a) - within(b) for a, b in zip(x.split(1000), y.split(1000), strict=True)]
    values = torch.stack(blocks)
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def test_the_distance_tells_a_small_shift():
    same, error = energy(draws(plane(), N, 1), draws(plane(), N, 2))
    assert abs(same) < 3 * error
    shifted, error = energy(draws(plane(), N, 1) + torch.tensor([0.05, 0.0], dtype=F64), draws(plane(), N, 2))
    assert shifted > 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_distribution_of_the_data(name):
    oracle = plane()
    sampler = measured(STOCHASTIC[name], oracle, draws(oracle, 1000))

    def denoise(x, level):
        return Prediction(*(part.view_as(x) for part in oracle(x.view(-1, 2), level)[:2]))

    noise = Noise(0, torch.arange(N // POINTS))
    x = sampler(denoise, VPLinear(), (POINTS, 2), noise, steps=STEPS, dtype=F64)
    distance, error = energy(x.view(-1, 2), draws(oracle, N, 7))
    print(name, distance, error)
    assert distance < 3 * error


def test_mala_is_exact_and_langevin_is_biased():
    """On a Gaussian of variance 1 a large step leaves ULA with variance 1 / (1 - size / 2), and MALA with 1."""
    size, n = 0.5, 20_000
    start = Noise(3, torch.arange(n)).normal((1,), F64)
    gaussian = (lambda x: -x[:, 0].square() / 2, lambda x: -x)
    biased = langevin.ula(gaussian[1], start, size, 40, Noise(4, torch.arange(n)))
    exact, accepted = langevin.mala(*gaussian, start, size, 40, Noise(4, torch.arange(n)))
    error = math.sqrt(2 / n)
    assert abs(biased.var() - 1 / (1 - size / 2)) < 4 * error / (1 - size / 2)
    assert abs(exact.var() - 1) < 4 * error
    assert 0.7 < accepted.mean() < 0.99


def test_annealing_recovers_the_weights_that_plain_langevin_misses():
    """Song and Ermon, NCSN, section 3.2: 0.8 N(-5, 1) + 0.2 N(5, 1), from a wide start."""
    oracle = MixtureDenoiser(
        torch.tensor([[-5.0], [5.0]], dtype=F64), torch.ones(2, dtype=F64), torch.tensor([0.8, 0.2], dtype=F64)
    )
    ve = build("schedule", "edm", "sigma_max=20.0", "sigma_min=0.1")
    sigmas = torch.logspace(math.log10(20), -1, 10, dtype=F64).tolist()
    sampler = samplers.AnnealedLangevin(Listed(sigmas, Rho(), to_clean=True), 10, rate=5e-4, repeats=100)
    x = sampler(oracle, ve, (1,), Noise(0, torch.arange(2000)), dtype=F64)
    assert float((x < 0).double().mean()) == pytest.approx(0.8, abs=4 * 0.4 / 2000**0.5 + 0.02)
    last = Level(*(torch.tensor(v, dtype=F64) for v in (0.1, 1.0, 0.1)))
    spread = 16 * Noise(1, torch.arange(2000)).uniform((1,)) - 8
    plain = langevin.ula(lambda y: oracle.score(y, last), spread, 5e-2, 1000, Noise(2, torch.arange(2000)))
    assert float((plain < 0).double().mean()) < 0.6


@pytest.mark.parametrize(("first", "count", "repeats", "epsilon"), [(50, 232, 5, 6.2e-6), (90, 500, 5, 3.3e-6)])
def test_without_a_rate_the_step_is_that_of_ncsnv2(first, count, repeats, epsilon):
    """Its published step sizes for CIFAR-10 and CelebA; and on data of no spread the noise is what the formula says."""
    gamma = (first / 0.01) ** (1 / (count - 1))
    r = langevin.technique_4(gamma, repeats)
    assert r * 0.01**2 == pytest.approx(epsilon, rel=0.02)
    sampler = samplers.AnnealedLangevin(Listed([1.0, 1 / gamma], Rho(), to_clean=False), 1, None, repeats)
    point = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.zeros(1, 1, dtype=F64))
    levels = sampler.grid(build("schedule", "edm"))
    x = sampler.run(
        point,
        build("schedule", "edm"),
        levels,
        gamma * Noise(0, torch.arange(N)).normal((1,), F64),
        Noise(1, torch.arange(N)),
    )
    rest = 2 / (2 - r)
    wanted = gamma**2
    for rho in (1.0, 1 / gamma):
        wanted = rho**2 * ((1 - r) ** (2 * repeats) * (wanted / rho**2 - rest) + rest)
    assert x.var() == pytest.approx(wanted, rel=4 * (2 / N) ** 0.5)


def test_the_papers_epsilon_is_twice_the_codes_rate():
    args = (plane(), VPLinear(), (2,))
    spacing = build("spacing", "uniform_log_snr")
    a = samplers.NCSNLangevin(spacing, 3, epsilon=2e-4, repeats=3)(*args, Noise(0, torch.arange(4)), dtype=F64)
    b = samplers.AnnealedLangevin(spacing, 3, rate=1e-4, repeats=3)(*args, Noise(0, torch.arange(4)), dtype=F64)
    assert torch.equal(a, b)
