import itertools
import math

import pytest
import torch
from oracles import F64, flow_map, interior_levels, mixture

from denoiselab import samplers
from denoiselab.noise import Noise
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.schedules import VPLinear

DETERMINISTIC = [samplers.DDIM, samplers.DPMSolverPlusPlus2M, samplers.Heun]
STEPS = [48, 96, 192, 384]


def errors(sampler):
    """RMS error at the end of the interior interval, for each number of steps, multistep history seeded exactly."""
    schedule, oracle = VPLinear(), mixture()
    start = torch.linspace(-1.5, 1.5, 9, dtype=F64)
    out = []
    for steps in STEPS:
        before, *levels = interior_levels(schedule, steps + 1)
        exact = flow_map(oracle, start, levels[0], levels[-1])
        state = sampler.init()
        noise = Noise(0, torch.arange(len(start)))
        seed = flow_map(oracle, start, levels[0], before)[:, None]
        _, state = sampler.step(oracle, schedule, seed, before, levels[0], state, noise)
        x = start[:, None]
        for here, there in itertools.pairwise(levels):
            x, state = sampler.step(oracle, schedule, x, here, there, state, noise)
        out.append(float((x[:, 0] - exact).square().mean().sqrt()))
    return out


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_order_of_convergence(kind):
    sampler = kind(spacing=UniformLogSNR(), steps=10)
    logs = [math.log(e) for e in errors(sampler)]
    slope = (logs[0] - logs[-1]) / math.log(STEPS[-1] / STEPS[0])
    assert slope == pytest.approx(kind.order, abs=0.15)


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_whole_run_converges_to_the_data(kind):
    """From x_T to clean data, driver and end points included."""
    schedule, oracle = VPLinear(), mixture()
    noise = Noise(0, torch.arange(64))
    levels = UniformLogSNR()(schedule, 100)
    start = levels[0].sigma * noise.normal((1,), F64)
    x = samplers.integrate(kind(UniformLogSNR(), 100), oracle, schedule, levels, start, noise)
    exact = flow_map(oracle, start[:, 0], levels[0], levels[-1])
    assert (x[:, 0] - exact).abs().median() < 0.02
