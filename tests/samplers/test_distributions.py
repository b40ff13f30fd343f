"""What stochastic samplers draw, against exact draws of a mixture in the plane."""

import math

import pytest
import torch
from configurations import build
from oracles import F64, draws, measured

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.noise import Noise
from denoiselab.samplers import langevin
from denoiselab.samplers.spacing import Listed
from denoiselab.samplers.transfer import Rho
from denoiselab.schedules import Level, VPLinear

N, STEPS = 20_000, 500
STOCHASTIC = {
    "ancestral": [],
    "analytic_dpm": ["half_range=null", "clip_pixels=null"],
    "ddim": ["eta=0.7"],
    "dpmpp_sde": [],
    "dpmpp_2m_sde": [],
    "dpmpp_3m_sde": [],
    "sde_dpm_solver": [],
    "dpmpp_2s_sde": [],
    "edm_sde": ["s_noise=1.0"],  # 1.003 compensates networks that remove too much noise; the oracle does not
    "euler_ancestral": [],
    "dpm2_ancestral": [],
    "dpmpp_2s_ancestral": [],
    "euler_maruyama": [],
    "sit_sde": [],
    "reverse_diffusion": [],
}


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
    sampler = build("sampler", name, *STOCHASTIC[name])
    if isinstance(sampler, samplers.Analytic):
        sampler.moments = measured(sampler, plane(), draws(plane(), 1000))
    steps = STEPS // sampler.calls_per_step
    x = sampler(plane(), VPLinear(), (2,), Noise(0, torch.arange(N)), steps=steps, dtype=F64)
    distance, error = energy(x, draws(plane(), N, 7))
    assert distance < 3 * error, (distance, error)


def test_predictor_corrector_keeps_the_variance_of_data_of_many_dimensions():
    """Its step size is a ratio of norms, which settles with the dimension: 256 here, data of standard deviation 0.5."""
    oracle = GaussianDenoiser(torch.full((256,), 0.3, dtype=F64), 0.25 * torch.eye(256, dtype=F64))
    sampler = build("sampler", "predictor_corrector", "snr=0.05")  # at 0.16 Langevin's own bias is 3 %
    x = sampler(oracle, VPLinear(), (256,), Noise(0, torch.arange(200)), steps=1000, dtype=F64)
    assert x.mean() == pytest.approx(0.3, abs=4 * 0.5 / (200 * 256) ** 0.5 + 0.005)
    assert x.var() == pytest.approx(0.25, rel=0.02)


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


def test_the_papers_epsilon_is_twice_the_codes_rate():
    args = (plane(), VPLinear(), (2,))
    spacing = build("spacing", "uniform_log_snr")
    a = samplers.NCSNLangevin(spacing, 3, epsilon=2e-4, repeats=3)(*args, Noise(0, torch.arange(4)), dtype=F64)
    b = samplers.AnnealedLangevin(spacing, 3, rate=1e-4, repeats=3)(*args, Noise(0, torch.arange(4)), dtype=F64)
    assert torch.equal(a, b)
