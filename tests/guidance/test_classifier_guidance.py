"""Guidance by a classifier's gradient, on a mixture whose classes are its components."""

from functools import partial

import pytest
import torch
from oracles import F64, mixture

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Prediction, ScaledTime
from denoiselab.guidance import ClassifierGuided, Guidance, NoisyClassifier, bind
from denoiselab.networks import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import Tally
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.samplers.thresholding import Clip
from denoiselab.schedules import Flow, Level, VEGeometric, VPLinear
from denoiselab.variances import FixedLarge, LearnedRange, posterior_variances

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


class OfClass:
    """The exact denoiser of each component, and of the mixture at the null class 3."""

    def __call__(self, x, level, cond):
        each = [of_class(k)(x, level) for k in range(3)] + [ORACLE(x, level)]
        rows = torch.arange(len(x))
        return Prediction(*(torch.stack([one[field] for one in each])[cond.class_label, rows] for field in (0, 1)))


@pytest.mark.parametrize("schedule", [VPLinear(), VEGeometric(), Flow()])
@pytest.mark.parametrize("w", [0.5, 1.0, 4.0])
def test_the_classifier_of_bayes_gives_classifier_free_guidance(schedule, w):
    """Scale w on the null model, and w - 1 on the conditional one, are classifier-free guidance of scale w."""
    cond = Conditioning(class_label=CLASSES)
    null = Conditioning(class_label=torch.full_like(CLASSES, 3))
    denoiser = OfClass()
    for t in (0.2, 0.5, 0.9):
        level = schedule.level(torch.tensor(t, dtype=F64))
        wanted = bind(denoiser, cond, null, Guidance(w))(X, level)
        for given, scale in ((null, w), (cond, w - 1)):
            guided = ClassifierGuided(partial(denoiser, cond=given), posterior, CLASSES, scale)(X, level)
            for field in ("x0", "eps"):
                assert torch.allclose(getattr(guided, field), getattr(wanted, field), rtol=1e-10, atol=1e-10)


def measured(x, level, index):
    """log p(y | x_t) for x0 ~ N(0, 1), y = x0 + 0.5 n, y = 1 + index: x0 given x_t is N(alpha x_t, sigma^2) on VP."""
    variance = level.sigma.square() + 0.25
    return -(1 + index - level.alpha * x[:, 0]).square() / 2 / variance - variance.log() / 2


class Basis(Noise):
    """Row 0 has no noise, row k only that of draw k - 1: an affine sampler's mean and covariance, exactly."""

    def __init__(self, rows):
        super().__init__(0, torch.zeros(rows, dtype=torch.int64))
        self.drawn = 0

    def normal(self, shape, dtype=torch.float32):
        self.drawn += 1
        return torch.eye(len(self.index), dtype=F64)[:, self.drawn, None]


@pytest.mark.parametrize(
    ("form", "sampler", "error"),
    [("eps", samplers.DPMSolverPP, 0.0024), ("eps", samplers.Ancestral, 0.015), ("mean", samplers.Ancestral, 0.026)],
)
def test_an_exact_likelihood_gives_the_posterior(form, sampler, error):
    """Posterior of x0 for y = 1: N(0.8, 0.2). Ancestral steps converge to it at first order in both forms.

    DPM-Solver++ keeps what x_T ~ N(0, 1) lacks of the posterior's mean there, 0.8 alpha_T sqrt(0.2) = 0.0023.
    """
    prior = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    errors = []
    for steps in (100, 200):
        guided = ClassifierGuided(prior, measured, torch.zeros(steps + 3, dtype=torch.int64), 1.0, form=form)
        x = sampler(steps=steps)(guided, VPLinear(), (1,), Basis(steps + 3), dtype=F64)[:, 0]
        mean, variance = float(x[0]), float((x[1:] - x[0]).square().sum())
        errors.append(max(abs(mean - 0.8), abs(variance - 0.2)))
    assert errors[1] < error
    if sampler is samplers.Ancestral:
        assert errors[1] / errors[0] == pytest.approx(0.53, abs=0.04)


@pytest.mark.parametrize("variance", [None, LearnedRange(), FixedLarge()])
def test_the_gradient_moves_the_mean_by_the_models_own_variance(variance):
    """Algorithm 1: mean + s Sigma gradient, with Sigma learned, fixed, or the sampler's."""
    schedule, raw = VPLinear(), torch.linspace(-1, 1, 6, dtype=F64)[:, None]
    here, there = schedule.level(torch.tensor([0.5, 0.4], dtype=F64)).unbind()
    own = None if variance is None else variance(X, raw)

    def denoise(x, level):
        return ORACLE(x, level)._replace(variance=own)

    rule = samplers.Ancestral(large=0.0 if own is None else None, threshold=Clip(1.0))
    step, noise = rule.between(schedule, here, there), partial(Noise, 0, torch.arange(6))
    guided = rule.threshold.wrap(ClassifierGuided(denoise, posterior, CLASSES, 3.0, form="mean"))
    moved = step(guided, X, None, noise()) - step(rule.threshold.wrap(denoise), X, None, noise())
    at = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(posterior(at, here, CLASSES).sum(), at)
    small, beta = posterior_variances(here, there)
    sigma = {type(None): small, FixedLarge: beta}.get(type(variance), small * (beta / small) ** ((raw + 1) / 2))
    assert torch.allclose(moved, 3 * sigma * gradient, rtol=1e-10, atol=1e-12)


def test_samplers_without_a_mean_refuse_the_form_on_it():
    guided = ClassifierGuided(ORACLE, posterior, CLASSES, 1.0, form="mean")
    with pytest.raises(ValueError, match="and DDIM makes none; use Ancestral, or guidance of the form eps"):
        samplers.DDIM(UniformLogSNR(), 2)(guided, VPLinear(), (1,), Noise(0, torch.arange(6)), dtype=F64)
