"""Progressive distillation against closed forms."""

import pytest
import torch
from oracles import F64
from test_all_objectives import Perturbed

from denoiselab import parameterizations
from denoiselab.analytic import GaussianDenoiser
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.networks import MLP
from denoiselab.noise import SAMPLING, Noise
from denoiselab.objectives import Progressive, weights
from denoiselab.objectives.progressive import GridLevels
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing import Karras, UniformTime, VPTime
from denoiselab.schedules import EDM, Flow, VPLinear
from denoiselab.schedules.base import like

PATHS = {"vp": (VPLinear(), VPTime()), "edm": (EDM(), VPTime()), "flow": (Flow(), UniformTime())}


def gaussian():
    factor = torch.tensor([[0.5, 0.0], [0.3, 0.2]], dtype=F64)
    return GaussianDenoiser(torch.tensor([0.4, -0.2], dtype=F64), factor @ factor.T)


def taught(oracle, path, spacing, steps, weighting=weights.truncated_snr):
    """The objective, with a closed form on another path than the student's as its teacher."""
    objective = Progressive(spacing, steps, weighting)
    home = Flow(1e-4, 1.0)
    objective.take_teacher(
        Denoiser(Perturbed(oracle, home, parameterizations.v), home, parameterizations.v, ScaledTime(1.0))
    )
    return objective


class Distilled(torch.nn.Module):
    """The output of the student's optimum: its x0 is the objective's target."""

    def __init__(self, objective, path, parameterization):
        super().__init__()
        self.objective, self.path, self.parameterization = (objective,), path, parameterization
        self.shift = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, label, cond=None):
        objective, path = self.objective[0], self.path
        fine = objective.level_distribution.spacing(path, 2 * objective.level_distribution.steps)
        t = torch.stack([level.t for level in fine])
        index = (t[None] - label[:, None].to(F64)).abs().argmin(1)
        pick = lambda n, name: torch.stack([getattr(level, name) for level in fine])[index + n]  # noqa: E731
        levels = [type(fine[0])(pick(n, "t"), pick(n, "alpha"), pick(n, "sigma"), path) for n in range(3)]
        x0 = objective.target(x, levels)
        a, b = self.parameterization(levels[0])
        eps = (x - like(levels[0].alpha, x) * x0) / like(levels[0].sigma, x)
        return like(a, x) * x0 + like(b, x) * eps + self.shift


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("path", PATHS)
def test_a_step_at_the_optimum_is_two_of_the_teachers(path, steps):
    schedule, spacing = PATHS[path]
    oracle, space = gaussian(), parameterizations.v if path != "edm" else parameterizations.edm
    objective = taught(oracle, schedule, spacing, steps)
    student = Denoiser(Distilled(objective, schedule, space), schedule, space, ScaledTime(1.0))
    x0 = torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    loss = objective(student, x0, Noise(1, torch.arange(64)))
    assert loss.max() < 1e-10
    loss.sum().backward()
    assert abs(float(student.network.shift.grad)) < 1e-4  # of a loss in float32
    draws = []
    for denoise, count in ((student, steps), (oracle, 2 * steps)):
        noise = Noise(3, torch.arange(64), SAMPLING)
        draws.append(DDIM(spacing)(denoise, schedule, (2,), noise, steps=count, dtype=F64))
    assert torch.allclose(draws[0], draws[1], rtol=0, atol=1e-10)


def test_a_loss_is_of_its_sample_alone():
    """So ranks and accumulated batches give the loss of the whole batch."""
    torch.manual_seed(0)
    path = VPLinear()
    student = Denoiser(MLP((2,), 16, 1), path, parameterizations.v, ScaledTime())
    objective = taught(gaussian(), path, VPTime(), 4)
    x0, whole = torch.randn(8, 2), torch.arange(8)
    parts = [objective(student, x0[half], Noise(1, half)) for half in whole.split(4)]
    assert torch.allclose(torch.cat(parts), objective(student, x0, Noise(1, whole)), rtol=1e-6)


def test_levels_are_those_of_steps_and_their_middles():
    noise = Noise(0, torch.arange(200))
    begin, middle, end = GridLevels(VPTime(), 4).step(VPLinear(), noise, 2)
    fine = VPTime()(VPLinear(), 8)
    for level, offset in ((begin, 0), (middle, 1), (end, 2)):
        assert set(level.sigma.tolist()) == {float(one.sigma) for one in fine[offset : len(fine) - 2 + offset : 2]}
    with pytest.raises(
        ValueError, match=r"=Karras: its levels of 4 steps on EDM are not among those.*spacing@objective.spacing="
    ):
        GridLevels(Karras(), 4).check(EDM())


def test_weights_of_the_paper():
    """Appendix D: with v, truncated SNR weights errors of the output by max(alpha^2, sigma^2), SNR + 1 by 1."""
    level = VPLinear().level(torch.linspace(0.01, 1, 50, dtype=F64))
    scale = (level.sigma / parameterizations.determinant(level, parameterizations.v(level))).square()
    both = torch.maximum(level.alpha.square(), level.sigma.square())
    assert torch.allclose(weights.truncated_snr(level) * scale, both, rtol=1e-12)
    assert torch.allclose(weights.edm(level, 1.0) * scale, torch.ones(50, dtype=F64), rtol=1e-12)
