"""Samplers that are one another in disguise, and everything on every schedule and parameterization."""

import itertools

import pytest
import torch
from configurations import build, names
from oracles import F64, flow_map, interior_levels, mixture

from denoiselab import parameterizations, samplers
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.noise import Noise
from denoiselab.samplers import unipc
from denoiselab.samplers.spacing import UniformTime
from denoiselab.samplers.tableaus import euler
from denoiselab.schedules import VPLinear
from denoiselab.schedules.base import like

GRID = UniformTime()
DDIM = samplers.DDIM(GRID, 12)


def run(sampler, schedule=None, levels=None):
    schedule = schedule or VPLinear()
    levels = levels or sampler.spacing(schedule, 12)
    x = Noise(0, torch.arange(50)).normal((1,), F64)
    return sampler.run(mixture(), schedule, levels, x, Noise(1, torch.arange(50)))


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.DPMSolver(GRID, 12, 1),
        samplers.DPMSolverPP(GRID, 12, 1),
        samplers.DPMSolverSinglestep(GRID, 12, 1),
        samplers.TAB(GRID, 12, 1),
        samplers.RhoAB(GRID, 12, 1),
        samplers.IPNDM(GRID, 12, 1),
        samplers.RhoRK(GRID, 12, euler()),
        samplers.UniPC(GRID, 12, 1, corrector=False),
        samplers.UniPCNoise(GRID, 12, 1, corrector=False),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_first_order_is_ddim(sampler):
    assert torch.allclose(run(sampler), run(DDIM), rtol=1e-10, atol=1e-12)


def test_the_transfer_of_pndm_is_ddim():
    """Liu et al., PNDM, arXiv 2202.09778, eq. 11, typed out."""
    here, there = interior_levels(VPLinear(), 1)
    x = Noise(0, torch.arange(50)).normal((1,), F64)
    eps = mixture()(x, here).eps
    now, then = here.alpha**2, there.alpha**2
    moved = x + (then - now) * (
        x / (now.sqrt() * (then.sqrt() + now.sqrt()))
        - eps / (now.sqrt() * (((1 - then) * now).sqrt() + ((1 - now) * then).sqrt()))
    )
    assert torch.allclose(run_from(DDIM, x, here, there), moved, rtol=1e-10)


def run_from(sampler, x, here, there):
    return sampler.run(mixture(), VPLinear(), [here, there], x, Noise(0, torch.arange(len(x))))


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.DDIM(GRID, 12, eta=1.0),
        samplers.DPMSolverPP(GRID, 12, 1, eta=1.0),
        samplers.Renoised(GRID, 12, samplers.RhoRK(GRID, 12, euler())),
    ],
    ids=["ddim", "sde-dpmpp-1", "euler_ancestral"],
)
def test_the_ancestral_step_has_many_names(sampler):
    assert torch.allclose(run(sampler), run(samplers.Ancestral(GRID, 12, large=0.0)), rtol=1e-9, atol=1e-11)


def test_2m_with_equal_steps_is_its_closed_form():
    """x0 (3/2) - x0_before / 2, whatever the step."""
    schedule = VPLinear()
    levels = interior_levels(schedule, 12)
    x = start = Noise(0, torch.arange(50)).normal((1,), F64)
    before = None
    for here, there in itertools.pairwise(levels):
        x0 = mixture()(x, here).x0
        guess = x0 if before is None else 1.5 * x0 - 0.5 * before
        h = there.lam - here.lam
        x = there.sigma / here.sigma * x - there.alpha * torch.expm1(-h) * guess
        before = x0
    out = samplers.DPMSolverPP(GRID, 12, 2, published=True).run(
        mixture(), schedule, levels, start, Noise(0, torch.arange(50))
    )
    assert torch.allclose(out, x, rtol=1e-10)


def test_unipc_without_its_corrector_is_dpm_solver():
    for order in (2, 3):
        a = samplers.UniPC(GRID, 12, order, unipc.VaryingCoefficients(), corrector=False, lower_order_final=False)
        assert torch.allclose(run(a), run(samplers.DPMSolverPP(GRID, 12, order)), rtol=1e-10)


SCHEDULES = ["ddpm", "vp_linear", "vp_cosine", "ve", "sub_vp", "edm", "flow"]
TIGHT = ["+rtol=1e-4", "+atol=1e-5"]
RULES = {
    name: build("sampler", name, *(TIGHT if name in ("dpm_solver_12", "dpm_solver_23") else []))
    for name in names("sampler")
}
RULES = {name: rule for name, rule in RULES.items() if not rule.stochastic}
# Their stages or polynomials stand in the schedule's own time, or their tolerance is in its scale of x, so schedules
# agree only up to the error of the solver.
OWN = {"tab", "fon", "fpndm", "plms", "spndm", "ode_euler", "ode_midpoint", "ode_rk4", "dpm_solver_12", "dpm_solver_23"}
WHOLE = {"ddim", "heun", "dpmpp_2m", "unipc"}
PARAMETERIZATIONS = (parameterizations.eps, parameterizations.x0, parameterizations.v)


class OracleNetwork(torch.nn.Module):
    """The mixture's exact prediction as a network's output, told only log(sigma / alpha)."""

    def __init__(self, parameterization, schedule):
        super().__init__()
        self.parameterization, self.schedule = parameterization, schedule

    def forward(self, x, label, cond=None):
        level = self.schedule.at(-label)
        x0, eps, _ = mixture()(x, level)
        a, b = (like(part, x) for part in self.parameterization(level))
        return a * x0 + b * eps


@pytest.mark.parametrize("rule", RULES)
def test_one_model_has_one_end_on_every_schedule(rule):
    """Model of VP; equal log-SNRs along seven schedules and three parameterizations; x0 at the last of them."""
    sampler, home = RULES[rule], VPLinear()
    lam = torch.linspace(-3, 3, 31, dtype=F64)
    start = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    exact = flow_map(mixture(), start[:, 0], home.at(lam[0]), home.at(lam[-1]))[:, None] / home.at(lam[-1]).alpha
    ends = []
    for number, name in enumerate(SCHEDULES):
        schedule = build("schedule", name)
        levels = schedule.at(lam).unbind()
        x = start * float(levels[0].sigma / home.at(lam[0]).sigma)
        # All three, for a few rules; for the others one a schedule.
        for parameterization in PARAMETERIZATIONS if rule in WHOLE else [PARAMETERIZATIONS[number % 3]]:
            network = OracleNetwork(parameterization, home)
            denoiser = Denoiser(network, home, parameterization, LogNoise(1.0))
            end = sampler.run(denoiser, schedule, levels, x, Noise(0, torch.arange(9)))
            ends.append(end / levels[-1].alpha)
    close = 0.03 if sampler.order > 1 else 0.4 if rule in OWN else 0.15
    for end in ends:
        assert torch.allclose(end, exact, rtol=0, atol=close)
        if rule not in OWN:
            assert torch.allclose(end, ends[0], rtol=0, atol=2e-6)
