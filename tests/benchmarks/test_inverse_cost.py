"""What a call of a likelihood method costs, in forward passes of the network that trains on the digits by default."""

import time

import pytest
import torch

import denoiselab
from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.inverse import DDNM, MMPS, TMPD, AveragePool, DPSLikelihood, PiGDMScore
from denoiselab.noise import Noise
from denoiselab.schedules import VPLinear

pytestmark = pytest.mark.benchmark

ROUNDS = 10

# Backward passes of a call. The first, with the forward pass that keeps its activations, takes 2.1 forward passes, each
# further one 1.1 (on one core of a busy machine; on an idle one 1.9 and 0.8 have been seen).
METHODS = {DDNM(): 0, DPSLikelihood(): 1, PiGDMScore(): 1, TMPD(): 2, MMPS(1): 2, MMPS(3): 4}


def test_calls_cost_a_forward_pass_and_their_backward_passes():
    torch.manual_seed(0)
    network = denoiselab.network("ddpm_tiny", shape=[1, 8, 8])
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime()).eval().requires_grad_(False)
    operator, noise = AveragePool(2).bind((1, 8, 8)), Noise(0, torch.arange(64))
    x, y = noise.normal((1, 8, 8)), noise.normal((1, 4, 4))
    level = VPLinear().level(torch.tensor(0.4, dtype=torch.float64))
    calls = {"forward": torch.no_grad()(denoiser)}
    calls |= {repr(method): torch.no_grad()(method.wrap(denoiser, operator, y, 0.05)) for method in METHODS}
    seconds = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call(x, level)
            seconds[name].append(time.process_time() - start)
    least = {name: min(times) for name, times in seconds.items()}
    cost = {name: round(value / least["forward"], 2) for name, value in least.items()}
    print(cost)
    for method, passes in METHODS.items():
        expected = 1.0 if passes == 0 else 2.1 + 1.0 * (passes - 1)
        assert cost[repr(method)] == pytest.approx(expected, rel=0.25), cost
