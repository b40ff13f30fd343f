"""Straightness against the closed form of a Gaussian's flow."""

import pytest
import torch
from scipy.integrate import quad

from denoiselab.analytic import GaussianDenoiser
from denoiselab.evaluation.straightness import straightness
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, DPMSolverPP, RhoRK
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import Flow, VPCosine


def measured(schedule, variance, sampler):
    exact = GaussianDenoiser(torch.zeros(2), variance * torch.eye(2))
    return straightness(exact, sampler, schedule, (2,), Noise(0, torch.arange(5)))


@pytest.mark.parametrize(("schedule", "error", "falls"), [(Flow(), 2e-4, 4), (VPCosine(), 4e-3, 2)])
def test_of_a_gaussian(schedule, error, falls):
    """y = sqrt(q(s)) z with q = (1 - s)^2 variance + s^2, on each axis; VP's last step shrinks less than others."""
    variance, (first, last) = 0.25, (DDIM(UniformTime(), 1).grid(schedule)[k] for k in (0, -1))
    high, low = (float(one.sigma / (one.alpha + one.sigma)) for one in (first, last))

    def q(s):
        return (1 - s) ** 2 * variance + s**2

    length = high - low
    square = quad(lambda s: (s - (1 - s) * variance) ** 2 / q(s), low, high)[0] / length
    chord = ((q(high) ** 0.5 - q(low) ** 0.5) / length) ** 2
    errors = []
    for steps in (100, 200):
        paths, chords = measured(schedule, variance, DPMSolverPP(UniformTime(), steps))
        assert (paths / chords).std() < 1e-6  # all paths of a Gaussian are alike
        errors.append(abs(float((paths / chords).mean()) - (square - chord) / chord))
    assert errors[1] < error
    assert errors[0] / errors[1] > 0.95 * falls


def test_of_a_point_it_is_zero_with_any_sampler_of_one_call_a_level():
    for sampler in (DDIM(UniformTime(), 7), DPMSolverPP(UniformTime(), 7)):
        paths, chords = measured(Flow(), 0.0, sampler)
        assert float(paths.max()) < 1e-10
        assert float(chords.min()) > 1e-3


@pytest.mark.parametrize("sampler", [RhoRK(UniformTime(), 5), DDIM(UniformTime(), 5, eta=1.0)])
def test_samplers_with_other_calls_are_refused(sampler):
    with pytest.raises(ValueError, match="use dpmpp_2m"):
        measured(Flow(), 0.25, sampler)
