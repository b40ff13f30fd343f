"""Our samplers end where those of diffusers do."""

import math
import sys
from itertools import product

import pytest
import torch
from configurations import composing
from omegaconf import OmegaConf
from oracles import F64
from peers import DRAWS, ORACLE, X, distance, named, ours, rule

from denoiselab.app.config import overrides
from denoiselab.interop.diffusers.scheduler_samplers import sampling
from denoiselab.nodes.instantiate import construct
from denoiselab.samplers import (
    DDIM,
    FPNDM,
    PLMS,
    Ancestral,
    Churn,
    DPMSolver,
    DPMSolverFast,
    DPMSolverPP,
    DPMSolverPPFast,
    DPMSolverPPSinglestep,
    DPMSolverSinglestep,
    Renoised,
    RhoAB,
    RhoRK,
    UniPC,
    UniPCNoise,
)
from denoiselab.samplers.tableaus import euler, heun
from denoiselab.samplers.thresholding import Clip, Dynamic
from denoiselab.samplers.transfer import gap
from denoiselab.samplers.unipc import BH1, BH2
from denoiselab.schedules import Level
from denoiselab.schedules.betas import linear
from denoiselab.schedules.discrete import DiscreteVP

# Rounding in float64; and in float32, to which some schedulers cast x at every step.
EXACT, CAST = 1e-10, 2e-6

CHAIN = DiscreteVP(linear(1000))


def index_level(i):
    """Index i of diffusers is level i + 1 of the chain."""
    return CHAIN.level((torch.as_tensor(i).double() + 1) / 1000)


def scheduler(name, steps=10, **options):
    """A scheduler of diffusers over the float64 values of its float32 tables."""
    import diffusers

    if name in ("DDPM", "DDIM"):
        options.setdefault("clip_sample", False)
    peer = getattr(diffusers, f"{name}Scheduler")(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **options)
    peer.alphas_cumprod = CHAIN.nodes().alpha.square()
    peer.set_timesteps(steps)
    if hasattr(peer, "sigmas"):
        table = torch.cat([torch.zeros(1, dtype=F64), CHAIN.nodes().rho])
        off, nearest = (table - peer.sigmas[:, None]).abs().min(1)
        assert (off <= 1e-4 * peer.sigmas).all()  # else its grid has others than trained levels
        peer.sigmas = table[nearest]
    return peer


def levels_of(peer):
    """The levels at which a scheduler stops."""
    if not hasattr(peer, "sigmas"):
        # PNDM's `timesteps` are its calls.
        grid = peer._timesteps[::-1].copy() if hasattr(peer, "_timesteps") else peer.timesteps
        return [*index_level(torch.as_tensor(grid)).unbind(), Level.clean()]
    rho = peer.sigmas.unique().flip(0)
    levels = CHAIN.at(-rho[rho > 0].log()).unbind()
    return levels if rho[-1] > 0 else [*levels, Level.clean()]


def theirs(peer, x, to_last=True, read=lambda eps: eps, **options):
    """Where the peer ends, or what it has before its last step."""
    draws, levels = iter(DRAWS), levels_of(peer)
    by_alpha = peer.init_noise_sigma != 1  # its x is x0 + rho eps
    x = x / levels[0].alpha if by_alpha else x
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[type(peer).__module__], "randn_tensor", lambda *_, **__: next(draws), raising=False)
        for t in peer.timesteps[: None if to_last else -1]:
            eps = ORACLE(peer.scale_model_input(x, t), index_level(t)).eps
            x = peer.step(read(eps), t, x, **options).prev_sample
    return x * levels[-1 if to_last else -2].alpha if by_alpha else x


TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
CHURN = {"s_churn": 4.0, "s_tmin": 0.3, "s_noise": 1.003}


def multistep():
    """DPM-Solver of either kind, ODE and SDE: their `heun` is the exact polynomial through two predictions."""
    # Their order 3 for the SDE of eps does not exist; for eps none of them can end at sigma = 0.
    for order, solver, lower, last in product((1, 2, 3), ("midpoint", "heun"), (True, False), ("zero", "sigma_min")):
        same = {"solver_order": order, "solver_type": solver, "lower_order_final": lower, "final_sigmas_type": last}
        taylor = solver == "heun"
        mine = {"published": not taylor or order == 3, "taylor": taylor, "lower_order_final": lower}
        for algorithm, kind, eta in (
            ("dpmsolver++", DPMSolverPP, 0.0),
            ("sde-dpmsolver++", DPMSolverPP, 1.0),
            ("dpmsolver", DPMSolver, 0.0),
            ("sde-dpmsolver", DPMSolver, 1.0),
        ):
            if (order < 3 or not eta) and (kind is DPMSolverPP or last == "sigma_min"):
                options = {"algorithm_type": algorithm, **same, **TRAILING}
                yield "DPMSolverMultistep", options, rule(kind, order, eta=eta, **mine), {}


def singlestep():
    """Their grid's levels are those of the calls, as those of our `Fast` are; their `heun` is `taylor`."""
    for algorithm, kind in (("dpmsolver++", DPMSolverPPSinglestep), ("dpmsolver", DPMSolverSinglestep)):
        options = {"algorithm_type": algorithm, "solver_order": 1, "final_sigmas_type": "sigma_min"}
        yield "DPMSolverSinglestep", options, rule(kind, 1), {}
    # Numbers of steps that both divide alike among the orders.
    for order, solver, steps, last in (
        (2, "midpoint", 11, "sigma_min"),
        (2, "midpoint", 11, "zero"),
        (2, "heun", 11, "sigma_min"),
        (3, "heun", 9, "sigma_min"),
        (3, "heun", 10, "sigma_min"),
        (3, "heun", 11, "sigma_min"),
        (3, "heun", 11, "zero"),
    ):
        for algorithm, kind in (("dpmsolver++", DPMSolverPPFast), ("dpmsolver", DPMSolverFast)):
            if kind is DPMSolverPPFast or last == "sigma_min":
                same = {"solver_order": order, "solver_type": solver, "final_sigmas_type": last}
                options = {"algorithm_type": algorithm, "steps": steps, "lower_order_final": True, **same}
                yield "DPMSolverSinglestep", options, rule(kind, order, taylor=solver == "heun"), {}


def unipc():
    """Their last step to sigma = 0 is NaN with bh1 and for eps (inf 0), so it is `sigma_min` there."""
    for order, (solver, b), lower in product((1, 2, 3, 4), (("bh1", BH1), ("bh2", BH2)), (True, False)):
        same = {"solver_order": order, "solver_type": solver, "lower_order_final": lower}
        mine = {"coefficients": b(), "lower_order_final": lower}
        for x0, kind in ((True, UniPC), (False, UniPCNoise)):
            options = {"predict_x0": x0, "final_sigmas_type": "sigma_min", **same, **TRAILING}
            yield "UniPCMultistep", options, rule(kind, order, **mine), {}
    zero = {"solver_type": "bh2", "final_sigmas_type": "zero", "solver_order": 3, **TRAILING}
    yield "UniPCMultistep", zero, rule(UniPC, 3), {}
    yield "UniPCMultistep", {**zero, "disable_corrector": [0, 3]}, rule(UniPC, 3, skip=[0, 3]), {}
    yield "UniPCMultistep", {**zero, "disable_corrector": list(range(10))}, rule(UniPC, 3, corrector=False), {}


def others():
    for variance, large in (("fixed_small", 0), ("fixed_large", 1)):
        yield "DDPM", {"variance_type": variance}, rule(Ancestral, large=large), {}
    # A network's 0 is half way between the bounds.
    half = {"read": lambda eps: torch.cat([eps, torch.zeros_like(eps)], 1)}
    yield "DDPM", {"variance_type": "learned_range"}, rule(Ancestral, large=0.5), half
    for eta, spacing in product((0.0, 0.5, 1.0), ({}, TRAILING)):
        yield "DDIM", {**spacing}, rule(DDIM, eta), {"eta": eta}
        clipped = {"clip_sample": True, "clip_sample_range": 0.8, **spacing}
        yield "DDIM", clipped, rule(DDIM, eta, threshold=Clip(0.8, keep_eps=True)), {"eta": eta}
        follows = {"eta": eta, "use_clipped_model_output": True}
        yield "DDIM", {**clipped, "timestep_spacing": "leading"}, rule(DDIM, eta, threshold=Clip(0.8)), follows
    # Their DEIS has polynomials in log rho, as DPM-Solver with exact integrals.
    for order, lower in product((1, 2, 3), (True, False)):
        options = {"solver_order": order, "lower_order_final": lower, **TRAILING}
        yield "DEISMultistep", options, rule(DPMSolver, order, lower_order_final=lower), {}
    for spacing in (TRAILING, {"timestep_spacing": "leading"}):
        yield "HeunDiscrete", spacing, rule(RhoRK, heun()), {}
        yield "EulerDiscrete", spacing, rule(RhoRK, euler()), {}
        yield "EulerAncestralDiscrete", spacing, rule(Renoised, rule(RhoRK, euler())), {}


@pytest.mark.parametrize(("name", "options", "mine", "more"), named([*others(), *multistep(), *singlestep(), *unipc()]))
def test_we_end_where_diffusers_does(name, options, mine, more):
    peer = scheduler(name, **options)
    cast = name in ("DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete")
    assert distance(ours(mine, CHAIN, levels_of(peer), X), theirs(peer, X, **more)) < (CAST if cast else EXACT)


@pytest.mark.parametrize(
    ("name", "options", "mine"),
    named(
        [
            # An even stride: else their Runge-Kutta start is called at a rounded middle.
            ("PNDM", {"skip_prk_steps": False}, rule(FPNDM)),
            ("PNDM", {"skip_prk_steps": False, "steps": 20}, rule(FPNDM)),
            ("PNDM", {"skip_prk_steps": True}, rule(PLMS)),
            ("PNDM", {"skip_prk_steps": True, "steps": 8}, rule(PLMS)),
            ("LMSDiscrete", {**TRAILING}, rule(RhoAB, 4)),
        ]
    ),
)
def test_we_are_where_diffusers_is_before_its_last_step(name, options, mine):
    # They extrapolate over several predictions to the end, alpha_bar[0] or clean data; to clean data we go by x0 alone.
    peer = scheduler(name, **options)
    assert distance(ours(mine, CHAIN, levels_of(peer)[:-1], X), theirs(peer, X, to_last=False)) < EXACT


@pytest.mark.parametrize(
    ("name", "options", "mine", "more"),
    named(
        [
            # Each step lands T // S = 100 indices lower, but the next call stands 111 lower.
            ("DDIM", LINSPACE, rule(DDIM), {}),
            # Where the last index is not 0 it adds noise to the samples, of variance beta.
            ("DDPM", {"variance_type": "fixed_large", **TRAILING}, rule(Ancestral, large=1), {}),
            # It calls the model before the noise is added, at the level before.
            ("EulerDiscrete", TRAILING, rule(Churn, rule(RhoRK, euler()), s_tmax=math.inf, **CHURN), CHURN),
            # The middle stage is of its `midpoint` type too; the paper's has the exact weight.
            (
                "DPMSolverSinglestep",
                {"solver_order": 3, "steps": 11, "lower_order_final": True},
                rule(DPMSolverPPFast, 3),
                {},
            ),
            # rhoAB is the paper's other variant.
            ("DEISMultistep", {"solver_order": 3, **TRAILING}, rule(RhoAB, 3, lower_order_final=True), {}),
        ]
    ),
)
def test_we_differ_from_diffusers_where_it_errs_or_means_another_rule(name, options, mine, more):
    peer = scheduler(name, **options)
    assert distance(ours(mine, CHAIN, levels_of(peer), X), theirs(peer, X, **more)) > 1e-3


class WrongSign(DPMSolverPP):
    """The SDE's order 3 with -1/2 for 1/2 in the weight of the second difference."""

    def weights(self, schedule, nodes, there):
        weights = super().weights(schedule, nodes, there)
        if len(nodes) < 3:
            return weights
        h = gap(nodes[0], there)
        r0, r1 = gap(nodes[1], nodes[0]) / h, gap(nodes[2], nodes[1]) / h
        bend = 1 / math.expm1(-2 * h) / (r0 + r1)
        return [weights[0] + bend / r0, weights[1] - bend / r0 - bend / r1, weights[2] + bend / r1]


def test_the_third_order_sde_of_diffusers_has_a_wrong_sign():
    # k-diffusion's 3M SDE has the right one, and ours.
    peer = scheduler("DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3, **TRAILING)
    mine = {"order": 3, "published": True, "eta": 1.0, "lower_order_final": True}
    levels, want = levels_of(peer), theirs(peer, X)
    assert distance(ours(rule(WrongSign, **mine), CHAIN, levels, X), want) < CAST
    assert distance(ours(rule(DPMSolverPP, **mine), CHAIN, levels, X), want) > 0.1


def scheduled(peer):
    """The sampler that the options of a scheduler compose."""
    with composing("sample"):
        options = sampling({"_class_name": type(peer).__name__, **peer.config})
        node = overrides.composed("sample", ["ckpt=none", *options])["sampler"]
    return construct(OmegaConf.to_container(node, resolve=True), "sampler")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIM", {}),
        ("DDIM", {"clip_sample": True, "clip_sample_range": 0.8}),
        ("DDIM", {"clip_sample": True, "set_alpha_to_one": False, "steps_offset": 1}),  # Latent Diffusion's end
        ("DDIM", {"set_alpha_to_one": False}),  # a last step to where it starts, which we do not take
        ("DDIM", {"clip_sample": True, **TRAILING}),
        ("DDPM", {"clip_sample": True, "variance_type": "fixed_large"}),
        ("DDPM", {"variance_type": "fixed_small"}),
        ("PNDM", {"skip_prk_steps": True, "steps_offset": 1}),
        ("PNDM", {"skip_prk_steps": True, "steps_offset": 1, "steps": 8}),
        ("PNDM", {"steps_offset": 1}),
        *[
            ("DPMSolverMultistep", {"solver_order": order, "steps": steps, "solver_type": solver, **TRAILING})
            for order, steps, solver in product((1, 2, 3), (10, 20), ("midpoint", "heun"))
        ],
        ("DPMSolverMultistep", {}),
        ("DPMSolverMultistep", {"lambda_min_clipped": -4.0}),
        ("DPMSolverMultistep", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("UniPCMultistep", {}),
        ("UniPCMultistep", {"solver_order": 3, "disable_corrector": [0, 3], **TRAILING}),
        ("UniPCMultistep", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("DPMSolverMultistep", {"lower_order_final": False, **TRAILING}),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", **TRAILING}),
    ],
)
def test_a_scheduler_is_the_sampler_that_its_options_compose(name, options):
    peer = scheduler(name, **options)
    if hasattr(peer, "final_alpha_cumprod") and not peer.config.set_alpha_to_one:
        peer.final_alpha_cumprod = peer.alphas_cumprod[0]
    mine = scheduled(peer)
    levels = mine.grid(CHAIN, peer.num_inference_steps)
    off = distance(ours(mine, CHAIN, levels, X), theirs(peer, X))
    assert off < (CAST if name == "DPMSolverMultistep" else EXACT)


def test_thresholding_is_dynamic_with_its_limit():
    """Its own runs need images."""
    for name, keep in (("DDIM", True), ("DDPM", False)):
        config = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}
        threshold = scheduled(scheduler(name, **config)).threshold
        assert isinstance(threshold, Dynamic)
        assert (threshold.ratio, threshold.bound, threshold.most, threshold.keep_eps) == (0.9, 1.0, 1.5, keep)


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "EulerDiscreteScheduler"},
        {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"},
        {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True},
        {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"},
        {"_class_name": "UniPCMultistepScheduler", "lower_order_final": False},
        {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing", "lambda_min_clipped": -4.0},
        {"_class_name": "PNDMScheduler", "set_alpha_to_one": True},
        {"_class_name": "DDPMScheduler", "variance_type": "learned"},
        {"_class_name": "DDPMScheduler", "steps_offset": 1},
        {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing", "use_karras_sigmas": True},
    ],
)
def test_a_scheduler_without_an_equal_sampler_has_no_options(config):
    assert sampling(config) == []
