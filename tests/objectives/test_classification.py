"""The training objective of classifiers, at the classifier of Bayes."""

import pytest
import torch
from oracles import F64, mixture

from denoiselab.denoiser import ScaledTime
from denoiselab.guidance import NoisyClassifier
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives import CrossEntropy
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import VPLinear

N = 50_000
ORACLE, PATH = mixture(), VPLinear()


class Bayes(torch.nn.Module):
    """The exact log-joints of the mixture's components, changed by a shift of the first and a factor."""

    def __init__(self, shift, factor):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor([shift, 0.0, 0.0], dtype=F64))
        self.factor = factor

    def forward(self, x, label):
        level = PATH.level(label.double() / 1000)
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        variance = (alpha * ORACLE.stds).square() + sigma.square()
        density = -(x - alpha * ORACLE.means[:, 0]).square() / 2 / variance - variance.log() / 2
        return (ORACLE.weights.log() + density) * self.factor + self.shift


def losses(shift=0.0, factor=1.0):
    draw = torch.Generator().manual_seed(0)
    label = torch.multinomial(ORACLE.weights, N, replacement=True, generator=draw)
    x0 = ORACLE.means[label] + ORACLE.stds[label, None] * torch.randn(N, 1, generator=draw, dtype=F64)
    classifier = NoisyClassifier(Bayes(shift, factor), PATH, ScaledTime(), 3, (1,))
    cond = Conditioning(class_label=label)
    return CrossEntropy(UniformTime())(classifier, x0, Noise(1, torch.arange(N)), cond), classifier.network


def test_its_optimum_is_the_classifier_of_bayes():
    for options in ({"shift": 0.01}, {"factor": 1.01}):
        down = {name: -value if name == "shift" else 2 - value for name, value in options.items()}
        slope = (losses(**options)[0] - losses(**down)[0]).double().detach() / 0.02
        assert abs(float(slope.mean() / (slope.std() / N**0.5))) < 4
    worse, best = losses(shift=1.0)[0], losses()[0]
    assert worse.mean() > best.mean() + 0.05


def test_it_is_one_float_a_sample_with_a_gradient():
    loss, network = losses()
    loss.mean().backward()
    assert (loss.shape, loss.dtype, bool((loss >= 0).all())) == ((N,), torch.float32, True)
    assert network.shift.grad is not None


def test_it_trains_classifiers_alone():
    with pytest.raises(ValueError, match="objective=CrossEntropy: it trains a classifier; choose denoiser=classifier"):
        CrossEntropy(UniformTime()).check(torch.nn.Identity())
    CrossEntropy(UniformTime()).check(NoisyClassifier(Bayes(0, 1), PATH, ScaledTime(), 3, (1,)))
