"""Samplers that are one another in disguise, and everything on every schedule and parameterization."""

import functools
import itertools
import math

import pytest
import torch
from configurations import build, complete
from diffusers import DDPMScheduler
from oracles import F64, flow_map, interior_levels, mixture, variant

from denoiselab import parameterizations, samplers
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.noise import Noise
from denoiselab.samplers import Memory, unipc
from denoiselab.samplers.spacing import Karras, Refining, UniformTime
from denoiselab.samplers.tableaus import euler
from denoiselab.samplers.thresholding import Clip, Dynamic
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


def transfer(x, eps, here, there):
    """Liu et al., PNDM, arXiv 2202.09778, eq. 11."""
    now, then = here.alpha**2, there.alpha**2
    return x + (then - now) * (
        x / (now.sqrt() * (then.sqrt() + now.sqrt()))
        - eps / (now.sqrt() * (((1 - then) * now).sqrt() + ((1 - now) * then).sqrt()))
    )


def run_from(sampler, x, levels):
    return sampler.run(mixture(), VPLinear(), levels, x, Noise(0, torch.arange(len(x))))


X = Noise(0, torch.arange(50)).normal((1,), F64)


def test_the_transfer_of_pndm_is_ddim():
    here, there = interior_levels(VPLinear(), 1)
    moved = transfer(X, mixture()(X, here).eps, here, there)
    assert torch.allclose(run_from(DDIM, X, [here, there]), moved, rtol=1e-10)


def test_s_pndm_is_the_papers():
    """Its appendix A: a pseudo improved-Euler step, then (3 e_0 - e_1) / 2."""
    levels, x, past = interior_levels(VPLinear(), 3), X, None
    for here, there in itertools.pairwise(levels):
        e = mixture()(x, here).eps
        mean = (e + mixture()(transfer(x, e, here, there), there).eps) / 2 if past is None else (3 * e - past) / 2
        x, past = transfer(x, mean, here, there), e
    assert torch.allclose(run_from(samplers.SPNDM(GRID, 3), X, levels), x, rtol=1e-10)


def test_fon_is_the_papers():
    """Its section 4: the classical Runge-Kutta rule three times, then Adams and Bashforth's, on the VP SDE's ODE."""

    def slope(x, t):
        beta = 0.1 + 19.9 * t
        level = VPLinear().level(t)
        return beta / 2 * (mixture()(x, level).eps / level.sigma - x)

    times, x, past = torch.linspace(0.6, 0.1, 6, dtype=F64), X, []
    h = times[1] - times[0]
    for t in times[:-1]:
        past = [slope(x, t), *past]
        if len(past) < 4:
            second = slope(x + h / 2 * past[0], t + h / 2)
            third = slope(x + h / 2 * second, t + h / 2)
            x = x + h / 6 * (past[0] + 2 * second + 2 * third + slope(x + h * third, t + h))
        else:
            x = x + h / 24 * (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3])
    assert torch.allclose(run_from(samplers.FON(GRID, 5), X, VPLinear().level(times).unbind()), x, rtol=1e-10)


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
        assert torch.allclose(run(a), run(samplers.DPMSolverPP(GRID, 12, order, published=False)), rtol=1e-10)


def test_one_langevin_correction_is_that_of_algorithm_5():
    """Song et al., arXiv 2011.13456: e = 2 a_i (r |z| / |g|)^2, x + e g + sqrt(2 e) z; a_i of the forward step."""
    here, there = interior_levels(VPLinear(), 1)
    sampler = samplers.PredictorCorrector(GRID, 1, samplers.DDIM(GRID, 1), 1, snr=0.16)
    z, g = Noise(3, torch.arange(50)).normal((1,), F64), -mixture()(X, here).eps / here.sigma
    e = 2 * (here.alpha / there.alpha) ** 2 * (0.16 * z.abs() / g.abs()) ** 2
    x = run_from(DDIM, X + e * g + (2 * e).sqrt() * z, [here, there])
    (planned,) = sampler.interior(VPLinear(), [here, there], 0)  # the run corrects once more, at `there`
    out = planned.step(mixture(), X, Memory(), Noise(3, torch.arange(50)))
    assert torch.allclose(out, x, rtol=1e-10)


def test_a_reverse_diffusion_step_is_the_papers():
    """Song et al., arXiv 2011.13456, eq. 46: (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z."""
    here, there = interior_levels(VPLinear(), 1)
    beta = 1 - (here.alpha / there.alpha) ** 2
    z, score = Noise(3, torch.arange(50)).normal((1,), F64), -mixture()(X, here).eps / here.sigma
    out = samplers.ReverseDiffusion(GRID, 1).run(mixture(), VPLinear(), [here, there], X, Noise(3, torch.arange(50)))
    assert torch.allclose(out, (2 - (1 - beta).sqrt()) * X + beta * score + beta.sqrt() * z, rtol=1e-10)


@pytest.mark.parametrize("schedule", ["vp_linear", "flow"])
def test_unipc_skips_the_runs_steps_and_refuses_others(schedule):
    schedule, sampler = build("schedule", schedule), samplers.UniPC(GRID, 6, skip=[2])
    full = samplers.UniPC(GRID, 6).plan(schedule, sampler.grid(schedule))
    skipped = sampler.plan(schedule, sampler.grid(schedule))
    lost = [
        number - 1
        for number, (a, b) in enumerate(zip(full, skipped, strict=True))
        if getattr(a.step, "correction", None) != getattr(b.step, "correction", None)
    ]
    assert lost == [2]
    sampler.skip = frozenset([6])
    with pytest.raises(ValueError, match=r"skip=\[6\]: the steps of this run are 0 to 5"):
        sampler.plan(schedule, sampler.grid(schedule))


def test_dynamic_thresholding_is_imagens():
    """diffusers' `_threshold_sample`, which caps s at `sample_max_value`."""
    x0 = 2 * Noise(0, torch.arange(6)).normal((3, 8, 8))
    x0[0] /= 100
    for most in (1e6, 1.5, 1.0):
        peer = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=most)
        assert torch.allclose(Dynamic(0.9, most=most)(x0), peer._threshold_sample(x0), rtol=1e-6, atol=1e-6)
    assert torch.equal(Dynamic(0.9, most=1e6)(x0), Dynamic(0.9)(x0))
    assert torch.equal(Dynamic(0.9)(x0)[0], x0[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.DPMSolverPPSinglestep(GRID, 9, 2, r1=0.0), "r1=0.0"),
        (lambda: Karras(math.nan), "rho=nan"),
        (lambda: Clip(math.nan), "bound=nan"),
        (lambda: Dynamic(bound=math.nan), "bound=nan"),
        (lambda: Dynamic(most=0.5), "most=0.5"),
        (lambda: samplers.DPMSolverAdaptive(GRID, h=math.nan), "h=nan"),
        (lambda: samplers.Churn(GRID, 9, DDIM, s_tmin=100.0), "s_tmin=100.0: it must not be above s_tmax=50.0"),
    ],
)
def test_an_option_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SCHEDULES = [build("schedule", name) for name in ("ddpm", "vp_linear", "vp_cosine", "ve", "sub_vp", "edm", "flow")]
RULES = {name: build("sampler", name) for name in complete("sampler")}
RULES = {name: rule for name, rule in RULES.items() if not rule.stochastic}
for name, rule in RULES.items():
    if rule.adaptive and rule.path_dependent:  # by its tolerances
        RULES[name] = variant(rule, rtol=2e-3, atol=2e-4)
PARAMETERIZATIONS = (parameterizations.eps, parameterizations.x0, parameterizations.v)


class OracleNetwork(torch.nn.Module):
    """The mixture's exact prediction as a network's output, told only log(sigma / alpha)."""

    def __init__(self, parameterization, schedule):
        super().__init__()
        self.parameterization, self.schedule = parameterization, schedule

    def forward(self, x, label, cond=None):
        level = self.schedule.at(-label)
        x0, eps, *_ = mixture()(x, level)
        a, b = (like(part, x) for part in self.parameterization(level))
        return a * x0 + b * eps


HOME, START = VPLinear(), torch.linspace(-2, 2, 9, dtype=F64)[:, None]


def end_of(rule, denoise, schedule, steps):
    """x0 where equal steps in log-SNR lead from one start, whatever the schedule's scale."""
    levels = schedule.at(torch.linspace(-3, 3, steps + 1, dtype=F64)).unbind()
    x = START * float(levels[0].sigma / HOME.at(levels[0].lam).sigma)
    return RULES[rule].run(denoise, schedule, levels, x, Noise(0, torch.arange(9))) / levels[-1].alpha


@pytest.mark.parametrize("rule", RULES)
def test_one_model_has_one_end_on_every_schedule_and_in_every_parameterization(rule):
    ends = []
    for schedule, parameterization in itertools.product(SCHEDULES, PARAMETERIZATIONS):
        denoiser = Denoiser(OracleNetwork(parameterization, HOME), HOME, parameterization, LogNoise(1.0))
        ends.append(end_of(rule, denoiser, schedule, 5))
    for number, end in enumerate(ends):
        same = number - number % 3 if RULES[rule].path_dependent else 0
        assert torch.allclose(end, ends[same], rtol=0, atol=2e-6)
    apart = max(float((end - ends[0]).abs().max()) for end in ends)
    assert (apart > 1e-5) == RULES[rule].path_dependent


@pytest.mark.parametrize("rule", RULES)
def test_every_schedule_leads_to_the_end_of_the_exact_ode(rule):
    first, last = HOME.at(torch.tensor([-3.0, 3.0], dtype=F64)).unbind()
    exact = flow_map(mixture(), START[:, 0], first, last)[:, None] / last.alpha
    for schedule in SCHEDULES:
        end = end_of(rule, mixture(), schedule, 40)
        if RULES[rule].convergence_order == 1:  # what is of first order in the step falls out
            end = 2 * end_of(rule, mixture(), schedule, 80) - end
        print(rule, type(schedule).__name__, float((end - exact).abs().max()))
        assert torch.allclose(end, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("eta", [math.inf, 20.0])
@pytest.mark.parametrize("path", ["edm", "vp_linear", "flow"])
def test_order_one_with_all_noise_anew_is_the_sampling_of_consistency_models(path, eta):
    """Song et al., arXiv 2303.01469, algorithm 1: x0 <- D(x), x <- alpha x0 + sigma z, from pure noise too."""
    schedule = build("schedule", path)
    grid = Refining([3.0, 0.8, 0.1])
    levels = grid(schedule, 4)
    if eta != math.inf and levels[0].alpha == 0:  # whose first step adds the predicted noise
        return
    assert [round(float(level.rho), 9) for level in levels[1:]] == [3.0, 0.8, 0.1, 0.0]
    sampler, noise = samplers.DPMSolverPP(grid, 4, 1, eta=eta), functools.partial(Noise, 1, torch.arange(50))
    x = sampler(mixture(), schedule, (1,), noise(), dtype=F64)
    z = noise()
    want = levels[0].sigma * z.normal((1,), F64)
    for here, there in itertools.pairwise(levels):
        want = mixture()(want, here).x0
        if there.sigma > 0:
            want = there.alpha * want + there.sigma * z.like(want)
    assert torch.allclose(x, want, rtol=0, atol=1e-10)


def test_levels_of_refinement():
    grid, path = Refining([3.0, 0.8, 0.1], to_clean=False), build("schedule", "flow")
    for count in (1, 2, 3, 4):
        rho = grid.levels(path, count).rho
        assert torch.allclose(rho, torch.tensor([math.inf, 3.0, 0.8, 0.1], dtype=F64)[:count])
    rho = grid.levels(path, 6).rho  # of five levels: 3, 0.8, 0.1, and the geometric means between them
    assert torch.allclose(rho[1:], torch.tensor([3.0, 2.4**0.5, 0.8, 0.08**0.5, 0.1], dtype=F64))
    with pytest.raises(ValueError, match="steps=3: with one level in values there are at most 2 steps"):
        Refining([0.8]).levels(path, 3)
    with pytest.raises(ValueError, match="they do not go from its noisy end to data"):
        Refining([0.8, 3.0]).levels(path, 3)
    with pytest.raises(ValueError, match=r"values=\[\]: give at least 1 level"):
        Refining([])
    for kind in (samplers.DPMSolver, samplers.DPMSolverPP):
        with pytest.raises(ValueError, match="eta=inf: only DPMSolverPP with order=1"):
            kind(GRID, 12, 1 if kind is samplers.DPMSolver else 2, eta=math.inf)
