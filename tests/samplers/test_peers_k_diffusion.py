"""Our samplers end where those of k-diffusion do."""

import contextlib
import math

import pytest
import torch
from configurations import build
from oracles import F64
from peers import DRAWS, ORACLE, X, distance, k_diffusion, named, ours, rule

from denoiselab.samplers import (
    Churn,
    DPMSolverAdaptive,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPSDE,
    DPMSolverPPSinglestep,
    DPMSolverSinglestep,
    Renoised,
    RhoAB,
    RhoRK,
)
from denoiselab.samplers.spacing import Karras, UniformLogSNR
from denoiselab.samplers.tableaus import euler, heun
from denoiselab.schedules import EDM

EXACT = 1e-10
FIRST, LAST = 80.0, 0.002
LEVELS = Karras()(EDM(LAST, FIRST), 10)
# Churn raises the first level too, and does not pass the schedule's own end.
VE = EDM(LAST, 2 * FIRST)


def theirs(name, *arguments, **options):
    """Where a sampler ends, whatever it draws its noise with."""
    draws, sampling = iter(DRAWS), k_diffusion()

    def model(x, sigma):
        return ORACLE(x, VE.level(sigma)).x0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: next(draws))
        patch.setattr(sampling, "BrownianTreeNoiseSampler", lambda *_: lambda *_: next(draws))
        return getattr(sampling, name)(model, *arguments, disable=True, **options)


EULER, HEUN, DPM_2, DPMPP_2S = (
    rule(RhoRK, euler()),
    rule(RhoRK, heun()),
    rule(DPMSolverSinglestep),
    rule(DPMSolverPPSinglestep),
)


def cases():
    # Theirs draws in every step and ours in those that it churns, so these come first.
    churn = {"s_churn": 3.0, "s_tmin": 0.3, "s_noise": 1.003}
    for name, kind in (("euler", EULER), ("heun", HEUN), ("dpm_2", DPM_2)):
        yield name, {}, kind
        for s_tmin in (0.3, 0.0):  # 0: before the last step too
            yield name, {**churn, "s_tmin": s_tmin}, rule(Churn, kind, s_tmax=math.inf, **{**churn, "s_tmin": s_tmin})
    yield "dpmpp_2m", {}, rule(DPMSolverPP, 2, published=True)
    for eta in (0.0, 0.4, 1.0):
        for name, kind in (("euler", EULER), ("dpm_2", DPM_2), ("dpmpp_2s", DPMPP_2S)):
            yield f"{name}_ancestral", {"eta": eta, "s_noise": 1.1}, rule(Renoised, kind, eta, 1.1)
        for solver in ("midpoint", "heun"):
            mine = rule(DPMSolverPP, 2, published=solver == "midpoint", eta=eta)
            yield "dpmpp_2m_sde", {"eta": eta, "solver_type": solver}, mine
        yield "dpmpp_sde", {"eta": eta, "r": 0.4, "s_noise": 1.1}, rule(DPMSolverPPSDE, eta, 0.4, 1.1)
        yield (
            "dpmpp_3m_sde",
            {"eta": eta, "s_noise": 1.1},
            rule(DPMSolverPP, 3, published=True, taylor=True, eta=eta, s_noise=1.1),
        )


@pytest.mark.parametrize(("name", "options", "mine"), named(cases()))
def test_we_end_where_k_diffusion_does(name, options, mine):
    sigmas = torch.stack([level.sigma for level in LEVELS])
    x = FIRST * X
    assert distance(ours(mine, VE, LEVELS, x), theirs(f"sample_{name}", x, sigmas, **options)) < EXACT


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_is_rho_ab_up_to_its_last_step(order):
    # It extrapolates over several predictions to clean data, to which we go by x0 alone.
    sigmas = torch.stack([level.sigma for level in LEVELS[:-1]])
    x = FIRST * X
    assert distance(ours(rule(RhoAB, order), VE, LEVELS[:-1], x), theirs("sample_lms", x, sigmas, order=order)) < EXACT


def test_3m_sde_starts_by_another_rule_than_what_is_published():
    # DPM-Solver's order 3 starts at the midpoint, as in diffusers.
    levels = VE.at(torch.linspace(-1.0, 1.0, 5, dtype=F64)).unbind()
    sigmas = torch.stack([level.sigma for level in levels])
    want = theirs("sample_dpmpp_3m_sde", X, sigmas)
    assert distance(ours(rule(DPMSolverPP, 3, published=True, taylor=True, eta=1.0), VE, levels, X), want) < EXACT
    assert distance(ours(rule(DPMSolverPP, 3, published=True, eta=1.0), VE, levels, X), want) > 1e-3


@contextlib.contextmanager
def in_double():
    """Where their grids and tolerances are made."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_grids_are_those_of_k_diffusion(name):
    levels = build("spacing", name)(EDM(LAST, FIRST), 10)
    want = getattr(k_diffusion(), f"get_sigmas_{name}")(10, LAST, FIRST)
    assert torch.allclose(torch.stack([level.sigma for level in levels]), want.double(), rtol=1e-5)


@pytest.mark.parametrize("calls", [7, 8, 9])
def test_we_end_where_dpm_fast_does(calls):
    mine = DPMSolverFast(UniformLogSNR(to_clean=False), calls)  # the grid of the shipped `dpm_solver_fast`
    levels = mine.grid(EDM(LAST, FIRST))
    with in_double():
        want = theirs("sample_dpm_fast", FIRST * X, LAST, FIRST, calls)
    assert distance(ours(mine, VE, levels, FIRST * X), want) < EXACT


class Papers:
    """The step sizes of DPM-Solver's paper, appendix C, in the place of k-diffusion's PID controller."""

    def __init__(self, h, *coefficients, **options):
        self.h, self.order, self.left = h, coefficients[3], math.log(FIRST / LAST)

    def propose_step(self, error):
        self.left -= self.h if error <= 1 else 0
        self.h = min(self.h * 0.9 * float(error) ** (-1 / self.order), self.left)
        return error <= 1


@pytest.mark.parametrize("order", [2, 3])
def test_we_end_where_dpm_adaptive_does_with_the_papers_step_sizes(order):
    # Its error is a norm over the batch, ours each sample's: one sample at a time.
    ends = VE.at(-torch.tensor([FIRST, LAST], dtype=F64).log()).unbind()
    for x in (FIRST * X).split(1)[::4]:
        with in_double(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(k_diffusion(), "PIDStepSizeController", Papers)
            want = theirs("sample_dpm_adaptive", x, LAST, FIRST, order=order, noise_sampler=lambda *_: 0.0)
        assert distance(ours(DPMSolverAdaptive(Karras(), order=order), VE, ends, x), want) < EXACT
