"""Data to x_T and back: the errors of round trips, and their refinement by inverting each step."""

import functools

import pytest
import torch
from exact import exact, noise
from oracles import F64

from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Prediction
from denoiselab.samplers import DDIM, DPMSolverPP, RhoRK, Tally
from denoiselab.samplers.inversion import invert
from denoiselab.schedules import Flow, VPLinear

VP = VPLinear()
N = 1000
PLACES = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=F64)
DATA = PLACES[torch.arange(N) % 2] + 0.3 * noise(N, 5).normal((2,), F64)  # of the class: two of four modes


def modes(count):
    return MixtureDenoiser(
        PLACES[:count], torch.full((count,), 0.3, dtype=F64), torch.full((count,), 1 / count, dtype=F64)
    )


def guided(x, level, scale):
    """Classifier-free guidance to the class."""
    cond, null = modes(2)(x, level), modes(4)(x, level)
    return Prediction(torch.lerp(null.x0, cond.x0, scale), torch.lerp(null.eps, cond.eps, scale))


@functools.cache
def trip(steps, inversion, decoding, iterations=0):
    """The rms error of a round trip, the std of x_T, the largest residual, and the calls to encode."""
    sampler, tally = DDIM(steps=steps), Tally()
    there = tally.counted(functools.partial(guided, scale=inversion))
    found = invert(sampler, there, VP, DATA, iterations)
    back = sampler(functools.partial(guided, scale=decoding), VP, (2,), noise(N), start=found.x)
    return (
        float((back - DATA).square().mean().sqrt()),
        float(found.x.std()),
        float(found.residual.max()),
        tally.calls,
    )


@pytest.mark.parametrize(
    ("steps", "scale", "error", "std"),
    [
        (20, 1, 0.108, 0.796),
        (50, 1, 0.048, 0.896),
        (100, 1, 0.025, 0.932),
        (20, 3, 0.143, 1.82),
        (50, 7.5, 0.123, 7.34),
    ],
)
def test_a_round_trip_with_one_scale_returns_up_to_the_samplers_error(steps, scale, error, std):
    found = trip(steps, scale, scale)
    assert found[0] == pytest.approx(error, rel=0.02)
    assert found[1] == pytest.approx(std, rel=0.01)


def test_more_guidance_in_decoding_is_an_edit_whose_size_does_not_fall_with_the_steps():
    twenty, fifty, hundred = (trip(steps, 1, 3)[0] for steps in (20, 50, 100))
    assert fifty > 4 * trip(50, 1, 1)[0]
    assert twenty > 0.9 * fifty > 0.8 * hundred > 0.15
    assert hundred == pytest.approx(fifty, rel=0.02)


def test_fixed_points_of_all_steps_return_the_data():
    once, thrice, many = (trip(50, 1, 1, iterations) for iterations in (1, 3, 30))
    assert trip(50, 1, 1)[0] > 4 * once[0]
    assert once[0] > 4 * thrice[0]
    assert thrice[0] < 2e-3
    assert many[0] < 1e-8
    assert many[2] < 1e-7
    assert [found[3] for found in (once, thrice)] == [1 + 49 * 2, 3 + 49 * 4]


def test_where_the_iteration_does_not_contract_it_stops():
    for steps, scale in ((10, 3), (20, 7.5)):
        before, after = trip(steps, scale, scale), trip(steps, scale, scale, 8)
        assert after[0] < 1.05 * before[0]
        assert after[2] > 1e-3


@pytest.mark.parametrize(("sampler", "schedule"), [(RhoRK(steps=20), VP), (DDIM(steps=30), Flow())])
def test_other_single_steps_and_pure_noise_are_inverted_too(sampler, schedule):
    denoise = functools.partial(guided, scale=1.0)
    ends = []
    for iterations in (0, 3):
        found = invert(sampler, denoise, schedule, DATA, iterations)
        back = sampler(denoise, schedule, (2,), noise(N), start=found.x)
        ends.append(float((back - DATA).square().mean().sqrt()))
    assert ends[1] < ends[0] / 3


def test_without_iterations_it_is_encode_and_multistep_rules_have_no_inverse():
    denoise, sampler = functools.partial(guided, scale=1.0), DPMSolverPP(steps=9, order=2)
    assert torch.equal(invert(sampler, denoise, VP, DATA, 0).x, sampler.encode(denoise, VP, DATA))
    with pytest.raises(ValueError, match="fixed_point=2: DPMSolverPP is no single-step sampler"):
        invert(sampler, denoise, VP, DATA, 2)


def test_a_sample_does_not_depend_on_the_others():
    denoise, sampler = functools.partial(guided, scale=3.0), DDIM(steps=10)
    whole = invert(sampler, denoise, VP, DATA[:20], 4)
    part = invert(sampler, denoise, VP, DATA[:7], 4)
    assert torch.allclose(whole.x[:7], part.x, rtol=1e-12)
    assert torch.allclose(whole.residual[:7], part.residual, rtol=1e-9)


def test_two_gaussians_are_mapped_to_each_other_though_their_schedules_differ():
    """Encoded by a model of one schedule along that of the other, which decodes: an affine map of normal data."""

    def model(mean, std, schedule):
        return exact(GaussianDenoiser(torch.full((2,), mean, dtype=F64), torch.eye(2, dtype=F64) * std**2), schedule)

    ours, theirs, sampler = model(-1.0, 0.6, VP), model(0.5, 0.3, Flow()), DPMSolverPP(steps=100, order=2)
    x = 0.5 + 0.3 * noise(50).normal((2,), F64)
    x_t = invert(sampler, theirs, VP, x, 0).x
    error = sampler(ours, VP, (2,), noise(50), start=x_t) - (-1.0 + 2 * (x - 0.5))
    assert float(error.abs().max()) < 0.01  # 0.0066 of the means' difference is left in x_T
