"""Guidance by the difference of two predictions, in one call."""

import pytest
import torch
from oracles import F64

from denoiselab import parameterizations, samplers, variances
from denoiselab.conditioners import ClassLabel
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.guidance import Guidance, bind
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import Tally
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.schedules import VPLinear

INDEX = torch.arange(6)
LABELS = ClassLabel(3)
COND, NULL = LABELS.sample(INDEX), LABELS.null(INDEX)
X = Noise(0, INDEX).normal((2,), F64)


class Network(torch.nn.Module):
    """Its eps is affine in the class; it keeps the sizes of the batches that it saw."""

    def __init__(self, outputs=1):
        super().__init__()
        self.outputs, self.sizes = outputs, []

    def forward(self, x, label, cond):
        self.sizes.append(len(x))
        eps = x * 0.5 + cond.class_label[:, None] + label[:, None] * 1e-3
        return torch.cat([eps] * self.outputs, 1)


def denoiser(variance=None):
    network = Network(1 if variance is None else 2)
    return Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime(), variance=variance)


@pytest.mark.parametrize("batched", [False, True])
def test_a_doubled_batch_gives_the_sum_of_two_predictions(batched):
    t = torch.linspace(0.2, 0.9, 6, dtype=F64) if batched else torch.tensor(0.4, dtype=F64)
    model, level = denoiser(), VPLinear().level(t)
    cond, null = model(X, level, COND), model(X, level, NULL)
    guided = bind(model, COND, NULL, Guidance(2.5))(X, level)
    for field in ("x0", "eps"):
        a, b = getattr(cond, field), getattr(null, field)
        assert torch.allclose(getattr(guided, field), b + 2.5 * (a - b), rtol=1e-12)
    assert model.network.sizes == [6, 6, 12]


def test_without_a_null_class_there_is_no_guidance():
    labels = ClassLabel(3, dropout=0.0, null_class=False)
    level = VPLinear().level(torch.tensor(0.4, dtype=F64))
    assert torch.equal(
        bind(denoiser(), labels.sample(INDEX), labels.null(INDEX))(X, level).x0, denoiser()(X, level, COND).x0
    )
    for scale in (0.0, 2.5):
        with pytest.raises(ValueError, match=f"guidance={scale:g}: the model was trained without a null class"):
            bind(denoiser(), labels.sample(INDEX), labels.null(INDEX), Guidance(scale))
    with pytest.raises(ValueError, match=r"dropout=0\.1: it must be 0 where there is no null class"):
        ClassLabel(3, null_class=False)


def test_scales_1_and_0_are_single_evaluations():
    level = VPLinear().level(torch.tensor(0.4, dtype=F64))
    for scale, cond in ((1.0, COND), (0.0, NULL)):
        model = denoiser()
        assert torch.equal(bind(model, COND, NULL, Guidance(scale))(X, level).x0, denoiser()(X, level, cond).x0)
        assert model.network.sizes == [6]


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_channels_that_are_not_guided_are_those_of_the_conditional_model(scale):
    level = VPLinear().level(torch.tensor(0.4, dtype=F64))
    model = denoiser()
    cond, null = model(X, level, COND), model(X, level, NULL)
    guided = bind(model, COND, NULL, Guidance(scale), channels=1)(X, level)
    for field in ("x0", "eps"):
        a, b, c = (getattr(found, field) for found in (cond, null, guided))
        assert torch.allclose(c[:, :1], b[:, :1] + scale * (a - b)[:, :1], rtol=1e-12)
        assert torch.equal(c[:, 1:], a[:, 1:])
    with pytest.raises(ValueError, match="guided_channels=0"):
        ClassLabel(3, guided_channels=0)


def test_a_guided_call_is_one_nfe_and_two_evaluations():
    for scale, evaluations in ((3.0, 2), (1.0, 1)):
        tally = Tally()
        denoise = tally.counted(bind(denoiser(), COND, NULL, Guidance(scale), tally))
        samplers.DDIM(UniformLogSNR(), 5)(denoise, VPLinear(), (2,), Noise(0, INDEX), dtype=F64)
        assert tally.calls == 5
        assert tally.counts == {"nfe": 30, "network_evaluations": 30 * evaluations}


def test_the_variance_is_the_conditional_models():
    here, there = VPLinear().level(torch.tensor([0.6, 0.4], dtype=F64)).unbind()
    for variance in (variances.LearnedRange(), variances.FixedSmall()):
        model = denoiser(variance if variance.outputs == 2 else None)
        model.variance = variance
        guided, alone = bind(model, COND, NULL, Guidance(2.0))(X, here), model(X, here, COND)
        assert torch.equal(guided.variance(here, there), alone.variance(here, there))


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(ValueError, match="guidance=2"):
        bind(denoiser(), Conditioning(), Conditioning(), Guidance(2.0))
