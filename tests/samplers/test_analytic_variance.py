"""Analytic-DPM against Gaussian data, for which its steps are exact."""

import pytest
import torch
from oracles import F64, interior_levels, measured, mixture

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser
from denoiselab.app.building.checks import check_sampler
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.errors import BadInput
from denoiselab.guidance import Guidance
from denoiselab.model import Model
from denoiselab.noise import Noise
from denoiselab.samplers.spacing import UniformTime
from denoiselab.samplers.thresholding import Clip
from denoiselab.schedules import VPLinear

STD, MEAN, N = 0.4, 0.3, 4000
GAUSSIAN = GaussianDenoiser(torch.full((1,), MEAN, dtype=F64), torch.full((1, 1), STD**2, dtype=F64))
GAUSSIAN.schedule = VPLinear()
DATA = MEAN + STD * Noise(9, torch.arange(N)).normal((1,), F64)


def analytic(eta):
    sampler = samplers.Analytic(UniformTime(), 5, eta, clip_pixels=None)
    return measured(sampler, GAUSSIAN, DATA)


def test_moments_are_those_of_the_closed_form():
    """An exact model's error is the posterior's variance, and the paper's rho^2 (1 - E |eps|^2 / d)."""
    moments = analytic(1.0).measurement.moments
    level = VPLinear().at(moments.lam)
    exact = 1 / (1 / STD**2 + level.snr)
    assert torch.allclose(exact, level.rho**2 * (1 - level.sigma**2 / (level.alpha**2 * STD**2 + level.sigma**2)))
    assert len(moments.lam) == 64
    assert (moments.error / exact - 1).abs().max() < 4.5 * (2 / N) ** 0.5
    between = VPLinear().at(torch.tensor(0.123, dtype=F64))
    assert moments.spread(between) == pytest.approx(float(1 / (1 / STD**2 + between.snr)), rel=4 * (2 / N) ** 0.5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_five_steps_keep_the_variance_of_gaussian_data(eta):
    """Every marginal is right, where the fixed variance leaves too little noise."""
    levels = interior_levels(VPLinear(), 5)
    total = [float((level.alpha * STD) ** 2 + level.sigma**2) for level in (levels[0], levels[-1])]
    noise, spread = Noise(1, torch.arange(N)), []
    for sampler in (analytic(eta), samplers.DDIM(UniformTime(), 5, eta)):
        start = MEAN * levels[0].alpha + total[0] ** 0.5 * Noise(2, torch.arange(N)).normal((1,), F64)
        spread.append(float(sampler.run(GAUSSIAN, VPLinear(), levels, start, noise).var()))
    assert spread[0] == pytest.approx(total[1], rel=4 * (2 / N) ** 0.5)
    assert spread[1] < 0.85 * total[1]


def test_the_last_noisy_step_is_clipped_and_the_range_bounds_the_variance():
    def noise_of(sampler):
        """The standard deviation of each step's noise."""
        seen = []

        class Draws(Noise):
            def between(self, x, here, there):
                seen.append((here, there))
                return torch.ones_like(x)

        x = torch.zeros(1, 1, dtype=F64)
        steps = sampler.plan(VPLinear(), sampler.grid(VPLinear()))[:-1]
        quiet = Draws(0, torch.arange(1))
        oracle = lambda x, level: type(mixture()(x, level))(0 * x, 0 * x)  # noqa: E731
        return [float(planned.step(oracle, x, samplers.Memory(), quiet)) for planned in steps]

    free, clipped = analytic(1.0), analytic(1.0)
    clipped.clip_pixels = 2.0
    loose, tight = noise_of(free), noise_of(clipped)
    assert tight[:-1] == loose[:-1]
    assert tight[-1] == pytest.approx(4 / 255 * (torch.pi / 2) ** 0.5)
    assert tight[-1] < loose[-1]
    bounded = analytic(1.0)
    bounded.half_range = 0.1
    assert all(a <= b for a, b in zip(noise_of(bounded), loose, strict=True))
    assert noise_of(bounded)[0] < loose[0]


def test_the_moments_are_of_the_mended_prediction_and_guidance_is_refused():
    sampler = samplers.Analytic(UniformTime(), 5, threshold=Clip(0.5))
    clipped = measured(sampler, GAUSSIAN, DATA).measurement.moments.error
    plain = analytic(1.0).measurement.moments.error
    assert clipped[-1] > 4 * plain[-1]  # near the data x0 is known, and what the clip takes away is the error
    assert float(clipped[0]) == pytest.approx(float(plain[0]), rel=0.01)  # far from them it is the mean, inside
    model = Model(GAUSSIAN, Unconditional(), Identity([1]))
    free = samplers.Analytic(UniformTime(), 5)
    check_sampler(free, model, [Guidance()])
    check_sampler(samplers.DDIM(UniformTime(), 5), model, [Guidance(2.0)])
    with pytest.raises(BadInput, match=r"guidance=\[1\.0, 2\.0\].*use 1"):
        check_sampler(free, model, [Guidance(), Guidance(2.0)])


@pytest.mark.parametrize(
    ("shape", "option", "says"),
    [
        ([2], None, r"sampler\.threshold: Clip .* input is data of shape \[2\], which .* give sampler\.threshold=null"),
        (
            [1, 64],
            "evaluation",
            r"evaluation\.samplers: ddpm: Clip .* data of shape \[1, 64\], .* name one that has no",
        ),
    ],
)
def test_a_threshold_is_for_images(shape, option, says):
    sampler = samplers.Ancestral(UniformTime(), 5, threshold=Clip())
    check_sampler(sampler, Model(GAUSSIAN, Unconditional(), Identity([1, 8, 8])), [Guidance()], option, "ddpm")
    with pytest.raises(BadInput, match=says):
        check_sampler(sampler, Model(GAUSSIAN, Unconditional(), Identity(shape)), [Guidance()], option, "ddpm")


def test_a_model_that_was_not_measured_is_refused():
    sampler = samplers.Analytic(UniformTime(), 5)
    with pytest.raises(ValueError, match="measure"):
        sampler(GAUSSIAN, VPLinear(), (1,), Noise(0, torch.arange(2)))
    with pytest.raises(ValueError, match="clip_pixels=-1"):
        samplers.Analytic(UniformTime(), 5, clip_pixels=-1)
