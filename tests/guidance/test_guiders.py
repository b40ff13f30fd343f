"""The rules of guiders, against diffusers' and formulas written here; and what is refused."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from guided_models import Always, Pair, bound, classes, gaussian, modes, values
from oracles import F64

from denoiselab.denoiser import Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance import (
    AdaptiveProjected,
    Auto,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFree,
    CosineScale,
    Guidance,
    LinearScale,
    MagnitudeAware,
    PowerCosineScale,
    State,
    Tangential,
    bind,
)
from denoiselab.guidance.spaces import moved, still, value
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, AdaptiveODE, DPMSolverFast, DPMSolverPP, PredictorCorrector, RhoRK
from denoiselab.samplers.spacing import Karras, UniformLogSNR
from denoiselab.schedules import EDM, Flow, Level, Trigonometric, VPLinear

INDEX = torch.arange(4)
COND, OTHER, X = (Noise(seed, INDEX).normal((3, 5), F64) for seed in range(3))
LEVELS = [EDM().level(values(0.7)[0]), Flow().level(values(0.1, 0.4, 0.6, 0.9)), VPLinear().level(values(0.5)[0])]


def prediction(space, level, quantity):
    """The prediction from X with that quantity."""
    return moved(space, level, still(space, level, X), quantity)


@pytest.mark.parametrize("space", ["x0", "eps", "v", "flow"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_space_has_its_quantity_and_keeps_x(space, level):
    alpha, sigma = (part.reshape(-1, 1, 1) for part in (level.alpha, level.sigma))
    made = prediction(space, level, COND)
    assert torch.allclose(alpha * made.x0 + sigma * made.eps, X, rtol=1e-12)
    assert torch.allclose(value(space, level, made), COND, rtol=1e-12, atol=1e-12)
    norm = (alpha**2 + sigma**2).sqrt()
    of = {"x0": made.x0, "eps": made.eps, "v": (alpha * made.eps - sigma * made.x0) / norm, "flow": made.eps - made.x0}
    assert torch.allclose(of[space], COND, rtol=1e-12, atol=1e-12)


def test_in_pure_noise_eps_stands_for_x0():
    level = Trigonometric().level(values(1.0)[0])
    guided = Tangential(space="eps").guided(level, Prediction(COND, X), Prediction(OTHER, X), 3.0, State())
    expected = Tangential(space="x0").guided(level, Prediction(COND, X), Prediction(OTHER, X), 3.0, State())
    assert torch.equal(guided.x0, expected.x0)
    assert torch.allclose(guided.eps, X)


def theirs(name, **options):
    guiders = pytest.importorskip("diffusers.guiders")
    return getattr(guiders, name)(**options)


@pytest.mark.parametrize(
    ("ours", "name", "options", "accuracy"),
    [
        (ClassifierFree(), "ClassifierFreeGuidance", {}, 1e-10),
        (ClassifierFree(rescale=0.7, space="eps"), "ClassifierFreeGuidance", {"guidance_rescale": 0.7}, 1e-10),
        (
            AdaptiveProjected(eta=0.3, norm_threshold=2.0, momentum=-0.5, space="eps"),
            "AdaptiveProjectedGuidance",
            {"eta": 0.3, "adaptive_projected_guidance_rescale": 2.0, "adaptive_projected_guidance_momentum": -0.5,
             "use_original_formulation": True},
            1e-10,
        ),
        (CFGZeroStar(zero_init_steps=0, space="eps"), "ClassifierFreeZeroStarGuidance", {"zero_init_steps": 0}, 2e-6),
        (Tangential(space="eps"), "TangentialClassifierFreeGuidance", {}, 1e-5),
        (MagnitudeAware(space="eps"), "MagnitudeAwareGuidance", {}, 1e-10),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_diffusers_combine_eps_alike(ours, name, options, accuracy, scale):
    """Twice, as momentum remembers. Theirs computes some inner products in float32."""
    shift = 1 if options.get("use_original_formulation") else 0
    peer, level, state = theirs(name, guidance_scale=scale - shift, **options), LEVELS[2], State()
    for cond, other in ((COND, OTHER), (OTHER, X)):
        peer.set_state(step=0, num_inference_steps=2, timestep=torch.tensor(0))
        if isinstance(ours, AdaptiveProjected) and state.running is None:
            peer.momentum_buffer = _buffer(-0.5)
        guided = ours.guided(level, *(prediction("eps", level, one) for one in (cond, other)), scale, state)
        assert torch.allclose(guided.eps, peer.forward(cond, other).pred, rtol=accuracy, atol=accuracy)
        assert torch.allclose(level.alpha * guided.x0 + level.sigma * guided.eps, X)


def _buffer(momentum):
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    return MomentumBuffer(momentum)


def test_diffusers_start_and_stop_are_an_interval():
    """DDIM by hand with their decision for each step, against ours with the interval of those steps."""
    schedule, sampler, n = VPLinear(), DDIM(UniformLogSNR(to_clean=False), 10), 10
    model, size = Pair(modes(0.5, 1.0), modes(0.5, -1.0, 1.0)), 4
    levels = sampler.grid(schedule)
    x = start = Noise(0, INDEX).normal((1,), F64)
    peer = theirs("ClassifierFreeGuidance", guidance_scale=3.0, start=0.3, stop=0.7)
    for i, (here, there) in enumerate(pairwise(levels)):
        peer.set_state(step=i, num_inference_steps=n, timestep=torch.tensor(0))
        cond, null = (model(x, here, classes(number, size)).eps for number in (1, 0))
        eps = peer.forward(cond, null if peer.num_conditions == 2 else None).pred
        x = there.alpha * (x - here.sigma * eps) / here.alpha + there.sigma * eps
    within = [float(levels[i].rho) for i in (7, 3)]  # the steps that begin at levels 3 to 6
    ours = bound(model, Guidance(3.0, ClassifierFree(interval=(within[0], within[1]))), size)
    assert torch.allclose(sampler.run(ours, schedule, levels, start, Noise(0, INDEX)), x, rtol=1e-10)


def test_autoguidance_by_heun_is_edm2s_formula():
    """D = D_guide + w (D - D_guide) in the sampler of EDM's algorithm 1, written here."""
    main, guide, w = modes(0.5, -1.0, 1.0), modes(0.8, -1.0, 1.0), 2.1
    schedule, sampler = EDM(), RhoRK(Karras(), 8)
    levels = sampler.grid(schedule)
    sigmas, x = [float(level.sigma) for level in levels], 80 * Noise(0, INDEX).normal((1,), F64)

    def denoise(x, sigma):
        level = Level(*values(sigma, 1.0, sigma))
        return torch.lerp(guide(x, level).x0, main(x, level).x0, w)

    y = x
    for here, there in pairwise(sigmas):
        slope = (y - denoise(y, here)) / here
        end = y + (there - here) * slope
        if there > 0:
            end = y + (there - here) * (slope + (end - denoise(end, there)) / there) / 2
        y = end
    none = Conditioning()
    ours = bind(Always(main), none, none, Guidance(w, Auto(guide=Always(guide), named="g")))
    assert torch.allclose(sampler.run(ours, schedule, levels, x, Noise(0, INDEX)), y, rtol=1e-10)


@pytest.mark.parametrize(
    "guider", [AdaptiveProjected(), CFGZeroStar(), Tangential(), MagnitudeAware(), ClassifierFree(rescale=0.5)]
)
def test_scale_1_is_neutral_and_rules_agree_where_they_should(guider):
    level = LEVELS[0]
    cond, other = (prediction("x0", level, one) for one in (COND, OTHER))
    assert torch.allclose(guider.guided(level, cond, other, 1.0, State()).x0, cond.x0, rtol=1e-12)


def test_apg_with_eta_1_is_plain():
    level = LEVELS[1]
    pair = [prediction("x0", level, one) for one in (COND, OTHER)]
    ours = AdaptiveProjected(eta=1.0, space="v").guided(level, *pair, 4.0, State())
    assert torch.allclose(ours.x0, torch.lerp(OTHER, COND, 4.0), rtol=1e-10)


def test_the_space_matters():
    level = LEVELS[2]
    pair = [prediction("x0", level, one) for one in (COND, OTHER)]
    found = [AdaptiveProjected(space=space).guided(level, *pair, 5.0, State()).x0 for space in ("x0", "eps", "v")]
    assert min(float((a - b).norm() / b.norm()) for a, b in (found[:2], found[1:], found[::2])) > 0.05


@pytest.mark.parametrize(("schedule", "clean", "noise"), [(LinearScale(), 2.0, 0.0), (CosineScale(), 2.0, 0.0),
                                                          (PowerCosineScale(), 1.0, 0.0)])  # fmt: skip
def test_scales_rise_towards_the_data(schedule, clean, noise):
    """Linear and cosine have mean 1 over u, by Wang et al.; the guided prediction takes the scale of each level."""
    u = torch.linspace(0, 1, 1001, dtype=F64)
    factors = schedule(Trigonometric().level(u))
    assert float(factors[0]) == pytest.approx(clean)
    assert float(factors[-1]) == pytest.approx(noise, abs=1e-12)
    assert bool((factors.diff() <= 1e-12).all())
    if clean == 2:
        assert float(torch.trapezoid(factors, u)) == pytest.approx(1)
    model, guider = Pair(gaussian(1.0, 0.25), gaussian(0.0, 1.0)), ClassifierFree(scale_schedule=schedule)
    x = Noise(0, INDEX).normal((1,), F64)
    rows = Trigonometric().level(values(0.2, 0.4, 0.6, 0.8))
    got = bound(model, Guidance(3.0, guider), 4)(x, rows).x0
    for i, level in enumerate(rows.unbind()):
        scale = 1 + 2 * float(schedule(level))
        assert torch.allclose(bound(model, scale, 4)(x, level).x0[i], got[i], rtol=1e-12)
        assert torch.allclose(bound(model, Guidance(3.0, guider), 4)(x, level).x0[i], got[i], rtol=1e-12)


def test_facts_name_what_matters_alone():
    assert Guidance(3.0).facts == Guidance(3.0, ClassifierFree(split=True)).facts == {"guidance": 3.0}
    assert Guidance(1.0, AdaptiveProjected()).facts == {"guidance": 1.0}
    assert Guidance(1.0, CFGPlusPlus()).facts == {
        "guidance": 1.0,
        "guider": {"name": "cfgpp", "depends_on_nfe": True},
    }
    named = Guidance(2.0, Auto(guide=Always(None), named="ab12", interval=[0.2, 1])).facts["guider"]
    assert named == {"name": "auto", "interval": [0.2, 1.0], "named": "ab12"}
    schedule = Guidance(2.0, ClassifierFree(scale_schedule=PowerCosineScale(2.0), interval=[0.2, math.inf])).facts[
        "guider"
    ]
    power = {"name": "PowerCosineScale", "power": 2.0}
    assert schedule == {"name": "cfg", "interval": [0.2, "inf"], "scale_schedule": power}
    assert Guidance(2.0).made({"guidance": 2.0})
    assert not Guidance(2.0).made({"guidance": 2.0, "guider": {"name": "tcfg"}})
    assert hash(Guidance(2.0)) == hash(Guidance(2))
    assert dataclasses.replace(Guidance(2.0), scale=3.0) != Guidance(2.0)


@pytest.mark.parametrize(
    ("guidance", "sampler", "sentence"),
    [
        (Guidance(0.6, CFGPlusPlus()), DPMSolverPP(), "guider=cfgpp: DPMSolverPP adds no predicted noise"),
        (
            Guidance(3.0, AdaptiveProjected(momentum=-0.5)),
            RhoRK(),
            "momentum=-0.5: .* RhoRK makes several",
        ),
        (Guidance(3.0, AdaptiveProjected(momentum=-0.5)), PredictorCorrector(), "PredictorCorrector makes several"),
        (Guidance(3.0, AdaptiveProjected(momentum=-0.5)), AdaptiveODE(), "AdaptiveODE chooses its own steps"),
        (Guidance(3.0, CFGZeroStar()), AdaptiveODE(), "zero_init_steps=1: AdaptiveODE chooses its own steps"),
        (Guidance(3.0, CFGZeroStar(zero_init_steps=50)), DDIM(), "zero_init_steps=50: the run has 50 steps"),
        (Guidance(3.0, ClassifierFree(interval=(300, 400))), DDIM(), r"interval=\[300, 400\]: no step of DDIM begins"),
        (Guidance(3.0, ClassifierFree(interval=(300, 400))), AdaptiveODE(), "no step of AdaptiveODE begins"),
        (Guidance(0.0, ClassifierFree(interval=(300, 400))), DDIM(), "no step of DDIM begins"),
        (
            Guidance(3.0, ClassifierFree(interval=(5.33, 5.44))),
            DPMSolverFast(steps=12),
            r"no step of DPMSolverFast begins there; they begin at .* of 152 to",
        ),
    ],
)
def test_samplers_that_a_guider_cannot_use_are_refused(guidance, sampler, sentence):
    with pytest.raises(BadInput, match=sentence):
        guidance.check(sampler, VPLinear())
    dataclasses.replace(guidance, scale=0.0 if guidance.guider.neutral is None else 1.0).check(sampler, VPLinear())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ClassifierFree(interval=(2.0, 1.0)), r"interval=\[2, 1\]: it must be \[lo, hi\] with 0 <= lo < hi"),
        (lambda: ClassifierFree(interval=(1.0,)), r"interval=\[1\]: it must be \[lo, hi\]"),
        (lambda: ClassifierFree(interval=(1.0, 2.0, 3.0)), r"interval=\[1, 2, 3\]: it must be \[lo, hi\]"),
        (lambda: ClassifierFree(rescale=1.5), r"rescale=1\.5"),
        (lambda: ClassifierFree(space="y"), "space='y': allowed: x0, eps, v, flow"),
        (lambda: AdaptiveProjected(momentum=1.0), r"momentum=1\.0"),
        (lambda: AdaptiveProjected(norm_threshold=0.0), "norm_threshold"),
        (lambda: CFGZeroStar(zero_init_steps=-1), "zero_init_steps=-1"),
        (lambda: MagnitudeAware(alpha=-1.0), r"alpha=-1\.0"),
        (lambda: Guidance(math.inf), "guidance=inf: it must be a finite number"),
        (lambda: bound(Pair(None, None), Guidance(7.5, CFGPlusPlus()), 2), r"guidance=7\.5: .* from 0 to 1"),
        (lambda: bind(None, Conditioning(), Conditioning(), Guidance(1.0, CFGPlusPlus())), "takes no condition"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
