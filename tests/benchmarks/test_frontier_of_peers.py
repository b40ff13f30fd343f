"""How near the exact end samplers come for a budget of network calls: ours, diffusers' and k-diffusion's.

Data: the mixture of the 1,797 digits of `load_digits`, scaled to [-1, 1] (64 dimensions), standard deviation 0.05,
equal weights. The denoiser is exact (`MixtureDenoiser` by matrix products, checked against it), float64: no network.
Path: `VPLinear()`, t from 1 to 1e-3; 256 starts x_T = sigma(1) z, z of `Noise(0, arange(256))`.
End: where the probability-flow ODE takes x_T at the level of t_min (sigma 0.0105), with no final denoise to clean data;
by 400 steps of Dormand and Prince's rule, checked against 800.
Error: the root mean square over 64 dimensions between a sampler's end and that end, both at t_min; its median over the
starts. Every call counts. A sampler that cannot spend a budget exactly spends less. (At 5 calls about 4 of 10 samples
reach another digit than the exact flow's, so the median hangs on whether a sampler gets half of them right.)

- Ours: the samplers of `ours` on `GRIDS`, `to_clean=False`: the last step lands at t_min.
- diffusers: "linear" betas 1e-4 to 0.02, 1,000 levels, sigma / alpha from 157 to 0.01000 (ours: 152 to 0.01049). It
  starts where the exact flow is at its first level, gets the exact eps at its own sigmas (not at rounded timesteps),
  and the exact flow carries its end to t_min, uncounted. A grid that reaches its last level before its final step stops
  there: the call saved buys a level. `leading` grids begin far below the first level and are left out.
  Its sigmas, and the states of some of its samplers, are float32.
- k-diffusion: y = x / alpha between our own ends, sigmas without the appended zero; SDE samplers at eta = 0.
- Each takes its own orders, types and grids, a grid's exponent varied where it is a parameter. The last column, not
  asserted, lends k-diffusion's samplers our grids, and shows what the grids are worth.
- Every candidate runs the first 32 starts; of each library the best 20 at each budget run all 256, the best is shown.
"""

import functools
import itertools
import math
import time
import warnings

import diffusers
import pytest
import torch
from exact import noise
from oracles import F64, Digits
from peers import k_diffusion

from denoiselab import samplers
from denoiselab.analytic import MixtureDenoiser
from denoiselab.samplers import Tally, spacing, tableaus, unipc
from denoiselab.schedules import Level, VPLinear

kd = k_diffusion()

BUDGETS = (5, 10, 15, 20, 30, 50)
STARTS, SCREENED, KEPT = 256, 32, 20
SCHEDULE = VPLinear()
FIRST, LAST = SCHEDULE.level(torch.tensor([SCHEDULE.t_max, SCHEDULE.t_min], dtype=F64)).unbind()


ORACLE = Digits()


def scaled(rho):
    """The variance-preserving level of a noise-to-signal ratio."""
    rho = torch.tensor(float(rho), dtype=F64)
    norm = torch.hypot(rho, torch.ones_like(rho))
    return Level(rho, 1 / norm, rho / norm)


# Candidates: (name, run), run(denoise, x_T, nfe) being x at t_min, or None where the budget is too small.
GRIDS = {f"PowerTime({rho})": spacing.PowerTime(rho, to_clean=False) for rho in (1, 1.5, 2, 3, 4)}
GRIDS |= {f"Karras({rho})": spacing.Karras(rho, to_clean=False) for rho in (3, 5, 7, 10)}
GRIDS |= {"UniformLogSNR": spacing.UniformLogSNR(to_clean=False), "Beta": spacing.Beta(to_clean=False)}


def ours():
    s, of = samplers, itertools.product
    sets = [(s.SPNDM, {}), (s.FPNDM, {}), (s.PLMS, {})]
    sets += [(family, {"order": order}) for family, order in of((s.TAB, s.RhoAB, s.IPNDM), (1, 2, 3, 4))]
    for family, order, published in of((s.DPMSolver, s.DPMSolverPP), (2, 3, 4), (False, True)):
        sets += [(family, {"order": order, "published": published})] if order < 4 or not published else []
    bs = (unipc.BH1, unipc.BH2, unipc.VaryingCoefficients)
    for family, order, b, final in of((s.UniPC, s.UniPCNoise), (1, 2, 3, 4), bs, (True, False)):
        sets.append((family, {"order": order, "coefficients": b, "lower_order_final": final}))
    single = (s.DPMSolverSinglestep, s.DPMSolverPPSinglestep, s.DPMSolverFast, s.DPMSolverPPFast)
    sets += [(family, {"order": n, "taylor": taylor}) for family, n, taylor in of(single, (2, 3), (False, True))]
    rules = ("midpoint", "heun", "ralston", "kutta3", "heun3", "ralston3", "rk4")
    sets += [(s.RhoRK, {"tableau": getattr(tableaus, rule)}) for rule in rules]

    def run(family, options, grid, denoise, x, nfe):
        sampler = family(grid, 1, **{key: v() if callable(v) else v for key, v in options.items()})
        if nfe < sampler.nfe(1, SCHEDULE):
            return None
        return sampler(denoise, SCHEDULE, (64,), noise(len(x)), nfe=nfe, start=x, dtype=F64)

    for (family, options), (way, grid) in of(sets, GRIDS.items()):
        yield f"{family.__name__}({shown(options)}), {way}", functools.partial(run, family, options, grid)


def shown(options):
    """Options as one reads them: names of flags, values of the rest."""
    words = (("" if v else "not ") + k if isinstance(v, bool) else v for k, v in options.items())
    return " ".join(getattr(word, "__name__", str(word)) for word in words)


def of_diffusers():
    common = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    common |= {"final_sigmas_type": "sigma_min", "set_alpha_to_one": False, "clip_sample": False}
    warped = {way: {f"use_{way}_sigmas": True} for way in ("karras", "exponential", "beta")}
    grids = {way: {"timestep_spacing": way} for way in ("linspace", "trailing")} | warped
    d, sets, starts = diffusers, [], {}  # sets: (class, options, grids)
    for cls, algorithm, (order, kind), final in itertools.product(
        (d.DPMSolverMultistepScheduler, d.DPMSolverSinglestepScheduler), ("dpmsolver", "dpmsolver++"),
        ((1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")), (True, False),
    ):  # fmt: skip
        some = {"algorithm_type": algorithm, "solver_order": order, "solver_type": kind, "lower_order_final": final}
        lu = {"lu": {"use_lu_lambdas": True}}
        sets.append((cls, some, grids | lu if cls is d.DPMSolverMultistepScheduler else {"linspace": {}} | warped))
    for kind, x0, order, final in itertools.product(("bh1", "bh2"), (True, False), (1, 2, 3, 4), (True, False)):
        some = {"solver_type": kind, "predict_x0": x0, "solver_order": order, "lower_order_final": final}
        sets.append((d.UniPCMultistepScheduler, some, grids))
    for order, final in itertools.product((1, 2, 3), (True, False)):
        sets.append((d.DEISMultistepScheduler, {"solver_order": order, "lower_order_final": final}, grids))
    for cls in (d.EulerDiscreteScheduler, d.LMSDiscreteScheduler, d.HeunDiscreteScheduler, d.KDPM2DiscreteScheduler):
        sets.append((cls, {}, {"linspace": {}} | warped))
    for cls, some in ((d.DDIMScheduler, {}), *((d.PNDMScheduler, {"skip_prk_steps": skip}) for skip in (True, False))):
        sets.append((cls, some, {"trailing": grids["trailing"]}))

    def run(cls, options, plain, denoise, x, nfe):
        scheduler = cls.from_config(common | options)  # which leaves out what a class does not know
        twice = cls in (d.HeunDiscreteScheduler, d.KDPM2DiscreteScheduler)
        in_y = twice or cls in (d.EulerDiscreteScheduler, d.LMSDiscreteScheduler)  # their state is x / alpha
        steps, calls = (nfe, nfe) if plain and not in_y else (nfe + 1, nfe)
        steps, calls = (nfe // 2 + 1, nfe // 2 * 2) if twice else (steps, calls)
        if cls is d.PNDMScheduler:
            steps = nfe - (1 if options["skip_prk_steps"] else 9)
            if steps < 4:
                return None
        scheduler.set_timesteps(steps)
        getattr(scheduler, "set_begin_index", int)(0)
        sigmas = getattr(scheduler, "sigmas", None)
        of_time = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
        first = float(of_time[scheduler.timesteps[0]] if sigmas is None else sigmas[0])
        assert abs(math.log(first / float(FIRST.rho))) < 0.05, "it starts elsewhere"
        if (first, len(x)) not in starts:
            starts[first, len(x)] = ORACLE.flow(x, FIRST, scaled(first), steps=20)
        x = starts[first, len(x)] / (float(scaled(first).alpha) if in_y else 1)
        for i, t in enumerate(scheduler.timesteps[:calls]):
            x_in = scheduler.scale_model_input(x, t)
            between = twice and not scheduler.state_in_first_order and hasattr(scheduler, "sigmas_interpol")
            rho = of_time[t] if sigmas is None else (scheduler.sigmas_interpol if between else sigmas)[i]
            x = scheduler.step(denoise(x_in, scaled(rho)).eps, t, x).prev_sample
        end = scaled(of_time[0] if sigmas is None else sigmas[calls])
        assert abs(float(end.rho) / 0.01 - 1) < 0.01, "it ends elsewhere"
        return ORACLE.flow(x.double() * (float(end.alpha) if in_y else 1), end, LAST, steps=1)

    for cls, options, (way, grid) in ((cls, options, item) for cls, options, ways in sets for item in ways.items()):
        name = f"{cls.__name__.removesuffix('Scheduler')}({shown(options)}), {way}"
        yield name, functools.partial(run, cls, options | grid, way in ("linspace", "trailing"))


def of_k_diffusion(lent=None):
    low, high, still = float(LAST.rho), float(FIRST.rho), {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
    grids = {"exponential": lambda n: kd.get_sigmas_exponential(n, low, high), "vp": kd.get_sigmas_vp}
    for r in (3, 5, 7, 10, 15):
        grids[f"karras({r})"] = lambda n, r=r: kd.get_sigmas_karras(n, low, high, r)
    for r in (0.7, 1.2, 1.5, 2, 3):
        grids[f"polyexponential({r})"] = lambda n, r=r: kd.get_sigmas_polyexponential(n, low, high, r)
    if lent is not None:
        grids = {way: lambda n, g=g: kd.append_zero(g.levels(SCHEDULE, n).rho) for way, g in lent.items()}
    rules = {  # calls a step, sampler
        "euler": (1, kd.sample_euler), "heun": (2, kd.sample_heun), "dpm_2": (2, kd.sample_dpm_2),
        **{f"lms{order}": (1, functools.partial(kd.sample_lms, order=order)) for order in (2, 3, 4)},
        "dpmpp_2m": (1, kd.sample_dpmpp_2m),
        "dpmpp_2s": (2, functools.partial(kd.sample_dpmpp_2s_ancestral, **still)),
        "dpmpp_sde": (2, functools.partial(kd.sample_dpmpp_sde, **still)),
        "dpmpp_2m_sde midpoint": (1, functools.partial(kd.sample_dpmpp_2m_sde, **still)),
        "dpmpp_2m_sde heun": (1, functools.partial(kd.sample_dpmpp_2m_sde, solver_type="heun", **still)),
        "dpmpp_3m_sde": (1, functools.partial(kd.sample_dpmpp_3m_sde, **still)),
    }  # fmt: skip

    def model(denoise, y, sigma):
        return denoise(y, Level(sigma[0], torch.ones((), dtype=F64), sigma[0])).x0

    def run(rule, calls, grid, denoise, x, nfe):
        sigmas = grid(nfe // calls + 1)[:-1].double()
        sigmas[0], sigmas[-1] = high, low  # the ends of theirs are rounded
        return LAST.alpha * rule(functools.partial(model, denoise), x / FIRST.alpha, sigmas, disable=True)

    def fast(denoise, x, nfe):
        seen = functools.partial(model, denoise)
        return LAST.alpha * kd.sample_dpm_fast(seen, x / FIRST.alpha, low, high, nfe, disable=True)

    yield "dpm_fast", fast
    for (name, (calls, rule)), (way, grid) in itertools.product(rules.items(), grids.items()):
        yield f"{name}, {way}", functools.partial(run, rule, calls, grid)


def median_error(run, x, exact, nfe):
    """The figure, infinite where the run is no number or does not fit."""
    tally = Tally()
    end = run(tally.counted(ORACLE), x, nfe)
    assert tally.calls <= nfe
    figure = math.inf if end is None else float((end - exact).square().mean(1).sqrt().median())
    return figure if math.isfinite(figure) else math.inf


def best(candidates, x, exact, nfe):
    """The (figure, name) of the best candidate, among those that are best on the first starts."""
    few = [(median_error(run, x[:SCREENED], exact[:SCREENED], nfe), name, run) for name, run in candidates]
    few = sorted(few, key=lambda entry: entry[0])[:KEPT]
    return min((median_error(run, x, exact, nfe), name) for _, name, run in few)


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_error_at_equal_calls():
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    begin, behind = time.perf_counter(), []
    x = noise(STARTS).normal((64,), F64) * FIRST.sigma
    plain = MixtureDenoiser(ORACLE.means, ORACLE.stds, ORACLE.weights)
    for level in (FIRST, scaled(1.0), scaled(0.1), LAST):
        torch.testing.assert_close(tuple(ORACLE(x[:8], level)), tuple(plain(x[:8], level)), rtol=0, atol=1e-9)
    exact = ORACLE.flow(x, FIRST, LAST)
    assert (ORACLE.flow(x[:16], FIRST, LAST, steps=800) - exact[:16]).abs().max() < 1e-8
    libraries = [list(of) for of in (ours(), of_diffusers(), of_k_diffusion(), of_k_diffusion(GRIDS))]
    print("\ncandidates: ours {}, diffusers {}, k-diffusion {}, on our grids {}".format(*map(len, libraries)))
    for nfe in BUDGETS:
        mine, *peers, lent = (best(candidates, x, exact, nfe) for candidates in libraries)
        cells = (f"{name}: {figure:.3e}" for figure, name in (mine, *peers, lent))
        print(f"NFE {nfe:2d} | {' | '.join(cells)} | {time.perf_counter() - begin:.0f} s", flush=True)
        if mine[0] > min(peers)[0]:
            behind.append((nfe, mine, min(peers)))
    assert not behind
