import pytest
import torch
from oracles import F64, mixture
from test_denoiser import exact_denoiser

from denoiselab import parameterizations
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.noise import Noise
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import VPLinear

L_SIMPLE = DenoisingObjective(weights.snr, UniformTime())


class Toy(torch.nn.Module):
    def forward(self, x, label, cond=None):
        return 0.3 * x + label[:, None] * 0.1


def test_l_simple_is_the_error_of_eps():
    denoiser = Denoiser(Toy(), VPLinear(), parameterizations.eps, ScaledTime(1.0))
    x0 = torch.linspace(-1, 1, 12).reshape(6, 2)
    loss = L_SIMPLE(denoiser, x0, Noise(0, torch.arange(6)))
    noise = Noise(0, torch.arange(6))
    t = 1e-3 + noise.uniform() * (1 - 1e-3)
    eps = noise.normal((2,)).double()
    level = VPLinear().level(t)
    x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
    out = 0.3 * x + t[:, None] * 0.1
    assert torch.allclose(loss.double(), (out - eps).square().mean(1), rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_prediction_does_not_depend_on_the_parameterization():
    x0 = torch.linspace(-1.2, 1.2, 64, dtype=F64)[:, None]
    losses = [
        L_SIMPLE(exact_denoiser(p), x0, Noise(0, torch.arange(64)))
        for p in (parameterizations.eps, parameterizations.x0, parameterizations.v)
    ]
    assert torch.allclose(losses[1], losses[0], rtol=1e-4)
    assert torch.allclose(losses[2], losses[0], rtol=1e-4)


@pytest.mark.parametrize("parameterization", [parameterizations.eps, parameterizations.v])
def test_the_exact_denoiser_is_the_optimum(parameterization):
    """The gradient of the expected loss along a shift and a scaling of the exact output is zero: |z| < 4."""
    oracle, n = mixture(), 40_000
    generator = torch.Generator().manual_seed(0)
    component = torch.multinomial(oracle.weights, n, replacement=True, generator=generator)
    x0 = oracle.means[component] + oracle.stds[component, None] * torch.randn(n, 1, dtype=F64, generator=generator)
    exact = exact_denoiser(parameterization)
    inner = exact.network

    class Perturbed(torch.nn.Module):
        def __init__(self, shift, scale):
            super().__init__()
            self.shift, self.scale = shift, scale

        def forward(self, x, label, cond=None):
            return inner(x, label) * (1 + self.scale) + self.shift

    h = 1e-2
    for shift, scale in ((h, 0.0), (0.0, h)):
        losses = []
        for sign in (1, -1):
            exact.network = Perturbed(sign * shift, sign * scale)
            losses.append(L_SIMPLE(exact, x0, Noise(0, torch.arange(n))).double())
        gradient = (losses[0] - losses[1]) / (2 * h)
        z = gradient.mean() / (gradient.std() / n**0.5)
        assert abs(z) < 4
