"""Guidance by a classifier's gradient, on a mixture whose classes are its components."""

import pytest
import torch
from oracles import F64, mixture

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import ScaledTime
from denoiselab.guidance import ClassifierGuided, Guidance, NoisyClassifier, bind
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import Tally
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.schedules import Level, VEGeometric, VPLinear

ORACLE = mixture()
CLASSES = torch.arange(6) % 3
X = Noise(0, torch.arange(6)).normal((1,), F64)


def posterior(x, level, classes):
    """The exact log-posterior of the components: log w_k N(x; alpha mu_k, alpha^2 s_k^2 + sigma^2), normalised."""
    alpha, sigma = (v.reshape(-1, 1) for v in (level.alpha, level.sigma))
    variance = (alpha * ORACLE.stds).square() + sigma.square()
    log_joint = ORACLE.weights.log() - (x - alpha * ORACLE.means[:, 0]).square() / 2 / variance - variance.log() / 2
    return log_joint.log_softmax(1).gather(1, classes[:, None])[:, 0]


def of_class(k):
    return MixtureDenoiser(ORACLE.means[k : k + 1], ORACLE.stds[k : k + 1], torch.ones(1, dtype=F64))


@pytest.mark.parametrize("schedule", [VPLinear(), VEGeometric()])
@pytest.mark.parametrize("batched", [False, True])
def test_with_the_exact_posterior_it_is_the_classes_own_denoiser(schedule, batched):
    t = torch.linspace(0.2, 0.9, 6, dtype=F64) if batched else torch.tensor(0.4, dtype=F64)
    level = schedule.level(t)
    guided = ClassifierGuided(ORACLE, posterior, CLASSES, 1.0)(X, level)
    for k in range(3):
        exact, rows = of_class(k)(X, level), k == CLASSES
        for field in ("x0", "eps"):
            assert torch.allclose(getattr(guided, field)[rows], getattr(exact, field)[rows], rtol=1e-10, atol=1e-12)


def test_the_scale_multiplies_the_posterior():
    """eps - s sigma grad log p; x0 and eps stay those of x; 0 calls no classifier."""
    level = VPLinear().level(torch.tensor(0.4, dtype=F64))
    plain, once = ORACLE(X, level), ClassifierGuided(ORACLE, posterior, CLASSES, 1.0)(X, level)
    thrice = ClassifierGuided(ORACLE, posterior, CLASSES, 3.0)(X, level)
    assert torch.allclose(thrice.eps - plain.eps, 3 * (once.eps - plain.eps))
    assert torch.allclose(level.alpha * thrice.x0 + level.sigma * thrice.eps, X)
    none = ClassifierGuided(ORACLE, lambda *_: pytest.fail("called"), CLASSES, 0.0)(X, level)
    assert torch.equal(none.eps, plain.eps)


def test_sampling_under_it_ends_in_the_classes():
    """By DDIM, without gradients around it; one end of the path is pure noise."""
    index = torch.arange(3000)
    guided = ClassifierGuided(ORACLE, posterior, index % 3, 1.0)
    x = samplers.DDIM(UniformLogSNR(), 40)(guided, VPLinear(), (1,), Noise(0, index), dtype=F64)
    for k in range(3):
        own = x[index % 3 == k, 0]
        assert float(own.mean()) == pytest.approx(float(ORACLE.means[k, 0]), abs=0.05)
        assert float(own.std()) == pytest.approx(float(ORACLE.stds[k]), rel=0.1)


def test_in_pure_noise_nothing_is_steered():
    zero, one = torch.tensor(0.0, dtype=F64), torch.tensor(1.0, dtype=F64)
    level = Level(one, zero, one)
    gaussian = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    guided, plain = ClassifierGuided(gaussian, posterior, CLASSES, 2.0)(X, level), gaussian(X, level)
    assert torch.equal(guided.eps, plain.eps)
    assert torch.equal(guided.x0, plain.x0)


class Logits(torch.nn.Module):
    """The exact logits at home on a schedule."""

    def forward(self, x, label):
        level = VPLinear().level(label / 1000)
        return torch.stack([posterior(x, level, torch.full((len(x),), k)) for k in range(3)], dim=1)


@pytest.mark.parametrize("schedule", [VPLinear(), VEGeometric()])
def test_a_classifier_is_asked_at_equal_log_snr(schedule):
    classifier = NoisyClassifier(Logits(), VPLinear(), ScaledTime(), 3, (1,))
    level = schedule.at(torch.linspace(-2, 2, 6, dtype=F64))
    assert torch.allclose(classifier(X, level, CLASSES), posterior(X, level, CLASSES), atol=1e-6)


def test_calls_of_the_network_and_of_the_classifier_are_counted_apart():
    conditional = type("Network", (), {"__call__": lambda self, x, level, cond: ORACLE(x, level)})()
    cond = Conditioning(class_label=CLASSES)
    for scale, evaluations in ((1.0, 1), (2.0, 2)):
        tally = Tally()
        bound = bind(conditional, cond, cond, Guidance(scale), tally)
        guided = tally.counted(ClassifierGuided(bound, posterior, CLASSES, 1.0, tally))
        samplers.DDIM(UniformLogSNR(), 5)(guided, VPLinear(), (1,), Noise(0, torch.arange(6)), dtype=F64)
        assert tally.calls == 5
        spent = {"network_evaluations": 30 * evaluations, "classifier_evaluations": 30}
        assert tally.counts == {"nfe": 30, **spent}
