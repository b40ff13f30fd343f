"""Every rule converges with its declared order, in all its variants, on the grid that its theory assumes."""

import math
import re

import pytest
import torch
from configurations import build, complete
from oracles import F64, flow_map, mixture
from oracles import interior_levels as lam_uniform

from denoiselab import samplers
from denoiselab.noise import Noise
from denoiselab.samplers import tableaus as rk
from denoiselab.samplers import unipc
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.samplers.transfer import Time
from denoiselab.schedules import VPLinear
from denoiselab.testing.convergence import errors, slope, weak_errors

GRID = UniformLogSNR()


def t_uniform(schedule, steps):
    first, last = schedule.time_of(torch.tensor([-2.0, 2.0], dtype=F64))
    return schedule.level(first + torch.linspace(0, 1, steps + 1, dtype=F64) * (last - first)).unbind()


def t_quadratic(schedule, steps):
    first, last = schedule.time_of(torch.tensor([-2.0, 2.0], dtype=F64)).sqrt()
    return schedule.level((first + torch.linspace(0, 1, steps + 1, dtype=F64) * (last - first)) ** 2).unbind()


def rho_uniform(schedule, steps):
    return schedule.at(-torch.linspace(2, 0.2, steps + 1, dtype=F64).log()).unbind()


def fast(steps):
    """A number of calls with no step of order 1 at the end: 3, ..., 3, 2."""
    return steps - steps % 3 + 2


FULL = {"lower_order_final": False}
CASES = {
    "ddim": (samplers.DDIM(GRID, 9), lam_uniform),
    **{f"tab{n}": (samplers.TAB(GRID, 9, n), t_quadratic) for n in (1, 2, 3, 4)},
    **{f"tab{n}_lam": (samplers.TAB(GRID, 9, n), lam_uniform) for n in (2, 3)},
    **{f"rhoab{n}": (samplers.RhoAB(GRID, 9, n), lam_uniform) for n in (1, 2, 3, 4)},
    **{f"ipndm{n}": (samplers.IPNDM(GRID, 9, n), lam_uniform) for n in (1, 2, 3, 4)},
    "spndm": (samplers.SPNDM(GRID, 9), rho_uniform),
    "plms": (samplers.PLMS(GRID, 9), lam_uniform),
    "fpndm": (samplers.FPNDM(GRID, 9), lam_uniform),
    "fon": (samplers.FON(GRID, 9), t_uniform),
    **{f"dpm{n}": (samplers.DPMSolver(GRID, 9, n), lam_uniform) for n in (1, 2, 3, 4)},
    **{f"dpmpp{n}": (samplers.DPMSolverPP(GRID, 9, n, published=False), lam_uniform) for n in (1, 2, 3, 4)},
    **{f"dpm{n}_published": (samplers.DPMSolver(GRID, 9, n, published=True), lam_uniform) for n in (2, 3)},
    **{f"dpmpp{n}_published": (samplers.DPMSolverPP(GRID, 9, n, published=True), lam_uniform) for n in (2, 3)},
    **{
        f"{kind.__name__}{n}_{'taylor' if taylor else 'dpmsolver'}": (kind(GRID, 9, n, taylor=taylor), lam_uniform)
        for kind in (samplers.DPMSolverSinglestep, samplers.DPMSolverPPSinglestep)
        for n in (1, 2, 3)
        for taylor in (False, True)
    },
    **{
        f"dpm3_r0.5_{taylor}": (samplers.DPMSolverSinglestep(GRID, 9, 3, taylor, r2=0.5), lam_uniform)
        for taylor in (False, True)
    },
    **{
        f"{kind.__name__}{n}_calls_in_t": (kind(GRID, 9, n, stages=Time()), t_uniform)
        for kind in (samplers.DPMSolverSinglestep, samplers.DPMSolverPPSinglestep)
        for n in (2, 3)
    },
    **{
        f"{kind.__name__}{n}_released": (
            kind(GRID, 9, n, unipc.ReleasedVaryingCoefficients(), lower_order_final=False),
            lam_uniform,
        )
        for kind in (samplers.UniPC, samplers.UniPCNoise)
        for n in (1, 2, 3, 4)
    },
    "dpm2_r0.3": (samplers.DPMSolverSinglestep(GRID, 9, 2, r1=0.3), lam_uniform),
    **{
        f"{kind.__name__}{n}": (kind(GRID, 9, n), lambda schedule, steps: lam_uniform(schedule, fast(steps)))
        for kind in (samplers.DPMSolverFast, samplers.DPMSolverPPFast)
        for n in (2, 3)
    },
    **{
        f"{kind.__name__}{n}_{type(b).__name__}": (kind(GRID, 9, n, b, lower_order_final=False), lam_uniform)
        for kind in (samplers.UniPC, samplers.UniPCNoise)
        for n in (1, 2, 3, 4)
        for b in (unipc.BH1(), unipc.BH2(), unipc.VaryingCoefficients())
    },
    **{
        f"sa_solver{n}_{c}": (samplers.SASolver(GRID, 9, n, tau=0.0, corrector_order=c, **FULL), lam_uniform)
        for n, c in ((1, 2), (2, 2), (3, 2), (3, 4))
    },
    **{f"er_sde{n}": (samplers.ERSDE(GRID, 9, n, samplers.sde.PowerScale(0.0)), lam_uniform) for n in (1, 2, 3)},
    **{f"rx_dpm{n}": (samplers.RXDPM(GRID, 9, group=n), lam_uniform) for n in (2, 3)},
    **{
        f"pfdiff{k}_{h}": (
            samplers.PFDiff(GRID, 9, k=k, h=h),
            lambda schedule, steps, k=k: lam_uniform(schedule, 1 + (steps - 1) * (k + 1)),
        )
        for k, h in ((1, 1), (2, 1))
    },
    **{f"unip{n}": (samplers.UniPC(GRID, 9, n, corrector=False, lower_order_final=False), lam_uniform) for n in (2, 3)},
    **{
        f"{kind.__name__}_{tableau.__name__}": (kind(GRID, 9, tableau()), lam_uniform)
        for kind in (samplers.RhoRK, samplers.TimeRK)
        for tableau in (rk.euler, rk.midpoint, rk.heun, rk.ralston, rk.kutta3, rk.heun3, rk.ralston3, rk.ssprk3, rk.rk4)
    },
}


# Their errors fall as they should on finer grids than those of the others.
FINER = re.compile("tab4|rhoab4|fon|DPMSolverPPSinglestep2_calls_in_t|UniPC4_(BH|Vary)")


@pytest.mark.parametrize("name", CASES)
def test_order_of_convergence(name):
    sampler, grid = CASES[name]
    factor = 1 if sampler.convergence_order < 3 else 2 if sampler.convergence_order < 5 else 4
    counts = [n * factor for n in ((48, 192) if FINER.match(name) else (24, 96))]
    found = errors(sampler, grid, counts)
    order = slope(counts, found)
    print(name, sampler.convergence_order, round(order, 2), found)
    assert order >= sampler.convergence_order - 0.15


@pytest.mark.parametrize("kind", [samplers.DPMSolverFast, samplers.DPMSolverPPFast])
def test_fast_has_order_three_but_for_a_last_step_of_order_one(kind):
    for calls, least, most in ((fast(96), 2.85, math.inf), (97, 1.85, 2.3)):
        found = errors(kind(GRID, 9, 3), lam_uniform, [calls, calls + 288])
        assert least <= math.log(found[0] / found[1]) / math.log(1 + 288 / calls) <= most


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in complete("sampler")
        if getattr(sampler := build("sampler", name), "lower_order_final", False) is True and not sampler.stochastic
    ],
)
def test_lower_final_orders_leave_the_declared_order_of_a_shipped_run(name):
    """To the last noisy level of a run that goes on to clean data."""
    sampler = build("sampler", name)
    found = errors(sampler, lam_uniform, [96, 384], to_clean=True)
    order = slope([96, 384], found)
    print(name, sampler.convergence_order, round(order, 2))
    assert sampler.convergence_order - 0.15 <= order <= sampler.convergence_order + 0.5


def test_the_released_third_order_loses_an_order():
    """Its second difference lacks a factor 2; the exact one has order 3 (above)."""
    for kind in (samplers.DPMSolver, samplers.DPMSolverPP):
        found = errors(kind(GRID, 9, 3, published=True), lam_uniform, [96, 384])
        assert math.log(found[0] / found[1]) / math.log(4) < 2.3


@pytest.mark.parametrize("kind", [samplers.UniPC, samplers.UniPCNoise])
def test_the_released_varying_coefficients_have_order_one(kind):
    """The wrong row leaves a slope with a wrong weight; the right ones have order 3 (above)."""
    released = kind(GRID, 9, 2, unipc.ReleasedVaryingCoefficients(), lower_order_final=False)
    found = errors(released, lam_uniform, [96, 384])
    assert math.log(found[0] / found[1]) / math.log(4) < 1.3


STOCHASTIC = {
    "ancestral": samplers.Ancestral(GRID, 9, large=0.0),
    "ancestral_large": samplers.Ancestral(GRID, 9, large=1.0),
    "ddim_eta": samplers.DDIM(GRID, 9, eta=0.6),
    **{f"sde_dpmpp{n}": samplers.DPMSolverPP(GRID, 9, n, published=False, eta=1.0) for n in (1, 2, 3)},
    "sde_dpmpp2_published": samplers.DPMSolverPP(GRID, 9, 2, published=True, eta=1.0),
    **{f"sde_dpm{n}": samplers.DPMSolver(GRID, 9, n, eta=1.0) for n in (1, 2)},
    "dpmpp_sde": samplers.DPMSolverPPSDE(GRID, 9),
    **{f"er_sde{n}": samplers.ERSDE(GRID, 9, n) for n in (1, 2, 3)},
    **{
        f"sa_solver{n}_{c}": samplers.SASolver(GRID, 9, n, low=0.0, high=math.inf, corrector_order=c)
        for n, c in ((2, 2), (3, 4))
    },
    "euler_maruyama": samplers.EulerMaruyama(GRID, 9),
    "euler_maruyama_sigma": samplers.EulerMaruyama(GRID, 9, samplers.sde.SigmaDiffusion()),
    "euler_maruyama_constant": samplers.EulerMaruyama(GRID, 9, samplers.sde.ConstantDiffusion()),
    "reverse_diffusion": samplers.ReverseDiffusion(GRID, 9),
    "euler_ancestral": samplers.Renoised(GRID, 9, samplers.RhoRK(GRID, 9, rk.euler())),
    "dpm2_ancestral": samplers.Renoised(GRID, 9, samplers.DPMSolverSinglestep(GRID, 9)),
    "dpmpp_2s_ancestral": samplers.Renoised(GRID, 9, samplers.DPMSolverPPSinglestep(GRID, 9)),
    "churned_heun": samplers.Churn(GRID, 9, samplers.RhoRK(GRID, 9, rk.heun()), 4.0, 0.0, 100.0, 1.0),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_weak_order_of_convergence(name):
    counts = [32, 64, 128]
    found = weak_errors(STOCHASTIC[name], counts)
    order = slope(counts, found)
    print(name, STOCHASTIC[name].convergence_order, round(order, 2), found)
    assert order >= STOCHASTIC[name].convergence_order - 0.15


def test_whole_run_converges_to_the_data():
    """From x_T to clean data, driver and end points included."""
    schedule, oracle = VPLinear(), mixture()
    noise = Noise(0, torch.arange(64))
    levels = GRID(schedule, 50)
    start = levels[0].sigma * noise.normal((1,), F64)
    exact = flow_map(oracle, start[:, 0], levels[0], levels[-1])
    for name, (sampler, _) in CASES.items():
        x = sampler.run(oracle, schedule, levels, start, noise)
        assert (x[:, 0] - exact).abs().median() < 0.03, name
