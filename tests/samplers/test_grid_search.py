"""Grids fitted to a model: better than the usual ones on starts that they were not fitted to."""

import pytest
import torch
from oracles import F64, Digits, mixture

from denoiselab import parameterizations, samplers
from denoiselab.conditioners import ClassLabel
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.guidance import Guidance, bind
from denoiselab.noise import Noise
from denoiselab.samplers.fitting import LocalErrors, NearestEnd
from denoiselab.samplers.spacing import Karras, PowerTime, UniformLogSNR, UniformTime
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.thresholding import Clip
from denoiselab.samplers.transfer import Lam
from denoiselab.schedules import Flow, VPLinear

USUAL = [UniformTime(), UniformLogSNR(), Karras(), PowerTime(2.0), PowerTime(3.0)]
CPU = torch.device("cpu")


def distance(sampler, schedule, spacing):
    """Over 300 fresh starts, to a run of 400 steps."""
    noise = lambda: Noise(7, torch.arange(300))  # noqa: E731
    fine = samplers.DPMSolverPP(UniformLogSNR(), 400, 3, published=False)(mixture(), schedule, (1,), noise(), dtype=F64)
    sampler.spacing = spacing
    x = sampler(mixture(), schedule, (1,), noise(), dtype=F64)
    return float((x - fine).abs().mean())


@pytest.mark.parametrize("schedule", [VPLinear(), Flow()], ids=["vp", "flow"])
@pytest.mark.parametrize("rule", ["ddim", "2m"])
def test_a_fitted_grid_is_nearer_than_the_usual_ones(schedule, rule):
    sampler = {
        "ddim": samplers.DDIM(UniformTime(), 6),
        "2m": samplers.DPMSolverPP(UniformLogSNR(), 6, published=False),
    }[rule]
    searches = [(NearestEnd(200, 64), 0.95 if rule == "ddim" else 0.8)]
    if rule == "ddim":  # whose error it measures
        searches.append((LocalErrors(200, 64), 1.05))
    for search, share in searches:
        sampler.spacing = UniformTime()
        grid = search(sampler, mixture(), schedule, (1,), CPU, dtype=F64)
        assert len(grid.lam) == 6
        assert all(a < b for a, b in zip(grid.lam, grid.lam[1:], strict=False))
        found = distance(sampler, schedule, Listed(grid.lam, Lam()))
        usual = min(distance(sampler, schedule, spacing) for spacing in USUAL)
        print(rule, type(search).__name__, found, usual, grid)
        assert found < share * usual
        assert grid.fitted <= grid.fitted_before
        assert grid.fitted <= grid.found


def test_a_grid_that_ends_noisy_keeps_both_ends():
    sampler = samplers.DDIM(UniformTime(to_clean=False), 5)
    grid = NearestEnd(50, 64, evaluations=60)(sampler, mixture(), VPLinear(), (1,), CPU, dtype=F64)
    ends = VPLinear().level(torch.tensor([VPLinear().t_max, VPLinear().t_min], dtype=F64)).lam
    assert [grid.lam[0], grid.lam[-1]] == pytest.approx(ends.tolist())
    assert grid.distance < grid.before


def test_gaps_below_rounding_are_passed_over():
    """Of four starts in one dimension the search comes to levels that coincide."""
    sampler = samplers.DPMSolverPP(steps=8)
    grid = NearestEnd(4, evaluations=40)(sampler, mixture(), VPLinear(), (1,), CPU)
    assert grid.found < grid.fitted_before


def test_a_grid_of_least_local_errors_that_loses_to_a_usual_one_is_not_the_result():
    """It prices steps of DDIM: with 2M on the digits' mixture, power_time ends more than 1.5 times nearer."""
    sampler = samplers.DPMSolverPP(UniformTime(), 8)
    grid = LocalErrors(24, 64)(sampler, Digits(), VPLinear(), (64,), CPU, dtype=F64)
    print(grid)
    assert grid.chosen in ("own", "uniform_time", "quadratic", "power_time")
    assert 1.5 * grid.fitted < grid.found
    assert grid.fitted <= grid.fitted_before
    assert grid.distance < 1.2 * grid.before  # on starts that chose nothing


class Shifted(torch.nn.Module):
    """The mixture's eps; that of class 0 has its data moved to the right."""

    def forward(self, x, label, cond):
        level = VPLinear().level(label / 1000)
        shift = 0.5 * level.alpha * (cond.class_label == 0)
        return mixture()(x - shift[:, None], level).eps


@pytest.mark.parametrize(("scale", "threshold"), [(3.0, None), (1.0, Clip(0.8))], ids=["guided", "clipped"])
def test_a_grid_is_fitted_to_the_guided_and_mended_model(scale, threshold):
    n, labels = 100, ClassLabel(1)
    denoiser = Denoiser(Shifted(), VPLinear(), parameterizations.eps, ScaledTime())
    index = torch.arange(n)
    denoise = bind(denoiser, labels.sample(index), labels.null(index), Guidance(scale))
    sampler = samplers.DDIM(UniformTime(), 5, threshold=threshold)
    grid = NearestEnd(n, 64, evaluations=80)(sampler, denoise, VPLinear(), (1,), CPU, dtype=F64)
    sampler.spacing = Listed(grid.lam, Lam())
    fine = samplers.DPMSolverPP(UniformLogSNR(), 500, 3, published=False, threshold=threshold)
    for first, found in ((0, grid.fitted), (n, grid.distance)):  # the starts that it was fitted to, and others
        starts = 2**40 + first + index
        x, end = (rule(denoise, VPLinear(), (1,), Noise(0, starts), dtype=F64) for rule in (sampler, fine))
        assert float((x - end).abs().mean()) == pytest.approx(found, rel=0.05)
    assert grid.distance < grid.before


def test_what_no_grid_decides_is_refused():
    for sampler, text in (
        (samplers.Ancestral(UniformTime(), 5), "deterministic"),
        (samplers.AdaptiveODE(UniformTime()), "deterministic"),
        (samplers.DDIM(UniformTime(), 40), "steps=40"),
    ):
        with pytest.raises(ValueError, match=text):
            LocalErrors(10, 64)(sampler, mixture(), VPLinear(), (1,), CPU)
    with pytest.raises(ValueError, match="fine=3"):
        LocalErrors(fine=3)
