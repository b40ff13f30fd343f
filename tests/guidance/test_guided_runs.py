"""Guiders in runs of samplers: they run or are refused, and every evaluation is counted."""

import pytest
import torch
from guided_models import Always, Pair, bound, classes, modes
from oracles import F64

from denoiselab import sampler as build
from denoiselab.conditioners import ClassLabel
from denoiselab.denoiser import Prediction
from denoiselab.errors import BadInput
from denoiselab.guidance import (
    AdaptiveProjected,
    Auto,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    MagnitudeAware,
    Tangential,
    bind,
)
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, Ancestral, Tally
from denoiselab.samplers.spacing import Karras, UniformLogSNR
from denoiselab.schedules import EDM, Flow, Trigonometric, VPLinear

B = 3
NULL = modes(0.5, -1.0, 1.0)
MODEL = Pair(modes(0.5, 1.0), NULL)
GUIDERS = {
    "cfg": ClassifierFree(),
    "interval": ClassifierFree(interval=(0.2, 2.0)),
    "split": ClassifierFree(split=True, rescale=0.3),
    "apg": AdaptiveProjected(norm_threshold=1.0),
    "momentum": AdaptiveProjected(momentum=-0.5),
    "cfg_zero_star": CFGZeroStar(),
    "cfgpp": CFGPlusPlus(),
    "tcfg": Tangential(),
    "mambo_g": MagnitudeAware(),
    "auto": Auto(guide=Always(modes(0.8, -1.0, 1.0)), named="wide", interval=(0.2, 2.0)),
}
SAMPLERS = ("ancestral", "ddim", "dpmpp_2m", "unipc", "heun", "predictor_corrector", "ode_adaptive")
REFUSED = {
    **{("cfgpp", name): "adds no predicted noise" for name in SAMPLERS if name != "ddim"},
    **{("momentum", name): "makes several calls a step" for name in ("heun", "predictor_corrector")},
    ("momentum", "ode_adaptive"): "chooses its own steps",
    ("cfg_zero_star", "ode_adaptive"): "chooses its own steps",
}


def rule(name):
    sampler = build(name)
    if sampler.adaptive:
        sampler.rtol = sampler.atol = 1e-2
    return sampler


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("guider", GUIDERS)
def test_every_guider_runs_with_every_sampler_or_is_refused(guider, name):
    guidance, sampler, steps = Guidance(0.6 if guider == "cfgpp" else 2.0, GUIDERS[guider]), rule(name), 6
    if (guider, name) in REFUSED:
        with pytest.raises(BadInput, match=REFUSED[guider, name]):
            guidance.check(sampler, VPLinear())
        return
    guidance.check(sampler, VPLinear(), None if sampler.adaptive else steps)
    tally, seen = Tally(), []

    def noted(x, level):
        seen.append(GUIDERS[guider].acts(level.step or level))
        return denoise(x, level)

    denoise = bound(MODEL, guidance, B, tally)
    options = {} if sampler.adaptive else {"steps": steps}
    x = sampler(tally.counted(noted), VPLinear(), (1,), Noise(0, torch.arange(B)), dtype=F64, **options)
    assert bool(x.isfinite().all())
    calls = len(seen)
    assert tally.calls == calls
    if not sampler.adaptive:
        assert calls == sampler.nfe(steps, VPLinear())
    guided = sum(on is not False for on in seen)
    if guider == "cfg_zero_star":
        guided -= 2 if name in ("heun", "predictor_corrector") else 1
        calls -= 2 if name in ("heun", "predictor_corrector") else 1
    expected = {"nfe": B * len(seen), "network_evaluations": B * (calls + guided)}
    if guider == "auto":
        expected |= {"network_evaluations": B * calls, "guide_evaluations": B * guided}
    assert tally.counts == expected


def test_heuns_two_calls_decide_together():
    """EDM's 32 steps with the 6 of Kynkäänniemi et al.'s interval: 63 calls, 75 evaluations."""
    sampler, tally = build("heun"), Tally()
    sampler.spacing = Karras()
    denoise = tally.counted(bound(MODEL, Guidance(2.0, ClassifierFree(interval=(0.19, 1.61))), B, tally))
    sampler(denoise, EDM(), (1,), Noise(0, torch.arange(B)), steps=32, dtype=F64)
    assert tally.calls == 63
    assert tally.counts == {"nfe": 63 * B, "network_evaluations": 75 * B}


def test_outside_the_interval_it_is_the_conditional_model():
    """On levels of one number and on those of each sample."""
    x, guidance = Noise(0, torch.arange(4)).normal((1,), F64), Guidance(3.0, ClassifierFree(interval=(0.5, 2.0)))
    rows = Trigonometric().at(-torch.tensor([0.1, 0.6, 1.9, 3.0], dtype=F64).log())
    cond, plain, got = (bound(MODEL, one, 4)(x, rows) for one in (1.0, 3.0, guidance))
    for i, level in enumerate(rows.unbind()):
        inside = i in (1, 2)
        assert torch.equal(got.x0[i], (plain if inside else cond).x0[i])
        assert torch.allclose(bound(MODEL, guidance, 4)(x, level).eps[i], got.eps[i], rtol=1e-12)


@pytest.mark.parametrize("kind", [Ancestral, DDIM])
def test_two_calls_are_one_of_a_doubled_batch(kind):
    def run(guider):
        model = Pair(modes(0.5, 1.0), NULL)
        x = kind(UniformLogSNR(), 5)(
            bound(model, Guidance(2.0, guider), B), VPLinear(), (1,), Noise(0, torch.arange(B)), dtype=F64
        )
        return x, set(model.sizes)

    (one, doubled), (two, split) = run(ClassifierFree()), run(ClassifierFree(split=True))
    assert torch.allclose(one, two, rtol=1e-12)
    assert (doubled, split) == ({2 * B}, {B})


def test_runs_of_one_guidance_share_no_state():
    guidance, x = Guidance(3.0, AdaptiveProjected(eta=1.0, momentum=-0.7)), Noise(0, torch.arange(B)).normal((1,), F64)
    level = VPLinear().level(torch.tensor(0.5, dtype=F64))
    first, second = bound(MODEL, guidance, B), bound(MODEL, guidance, B)
    a, changed = first(x, level).x0, first(2 * x, level).x0
    assert torch.equal(second(x, level).x0, a)
    assert not torch.allclose(changed, bound(MODEL, guidance, B)(2 * x, level).x0)


def test_zero_init_keeps_x_and_calls_no_network():
    """Along rectified flow with the space's own velocity; from the second step on the network is called."""
    tally, sampler = Tally(), build("ode_euler")
    denoise = bound(MODEL, Guidance(2.0, CFGZeroStar(zero_init_steps=2)), B, tally)
    levels, x = sampler.grid(Flow(), 5), Noise(0, torch.arange(B)).normal((1,), F64)
    end = sampler.run(denoise, Flow(), levels[:3], x, Noise(0, torch.arange(B)))
    assert torch.allclose(end, x, rtol=1e-12)
    assert tally.counts["network_evaluations"] == 0
    sampler.run(bound(MODEL, Guidance(2.0, CFGZeroStar()), B, tally), Flow(), levels[:3], x, Noise(0, torch.arange(B)))
    assert tally.counts["network_evaluations"] == 2 * B


def test_other_channels_are_the_conditional_models_with_any_rule():
    """Of a model whose x0 is half of x and the class in three directions."""
    labels, index = ClassLabel(3), torch.arange(4)

    def model(x, level, cond):
        x0 = x / 2 + cond.class_label[:, None] * torch.tensor([1.0, -0.3, 0.4], dtype=F64)
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    level, x = VPLinear().level(torch.tensor(0.5, dtype=F64)), Noise(0, index).normal((3,), F64)
    given = labels.sample(index), labels.null(index)
    alone = bind(model, *given)(x, level)
    for guider in (Tangential(), CFGPlusPlus(), ClassifierFree(rescale=0.5)):
        guided = bind(model, *given, Guidance(0.7, guider), channels=2)(x, level)
        assert torch.equal(guided.x0[:, 2:], alone.x0[:, 2:])
        assert not torch.allclose(guided.x0[:, :2], alone.x0[:, :2])
        assert guided.renoise is None or torch.equal(guided.renoise[:, 2:], alone.eps[:, 2:])


def test_the_guide_has_the_models_condition():
    model, guide = Pair(modes(0.5, 1.0), NULL), Pair(modes(0.7, 1.0), NULL)
    level, x = VPLinear().level(torch.tensor(0.5, dtype=F64)), Noise(0, torch.arange(B)).normal((1,), F64)
    tally = Tally()
    guided = bound(model, Guidance(2.0, Auto(guide=guide, named="g")), B, tally)(x, level).x0
    main, other = (one(x, level, classes(1, B)).x0 for one in (model, guide))
    assert torch.allclose(guided, 2 * main - other)
    assert tally.counts == {"nfe": 0, "network_evaluations": B, "guide_evaluations": B}
    assert torch.equal(bound(model, Guidance(0.0, Auto(guide=guide, named="g")), B, tally)(x, level).x0, other)
    assert tally.counts["network_evaluations"] == B
