"""Every file of conf/objective, and the grid weighting x parameterization x schedule, at the posterior mean."""

import functools

import pytest
import torch
from configurations import build, complete
from oracles import F64, mixture

from denoiselab import parameterizations, variances
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.noise import Noise
from denoiselab.objectives import (
    DenoisingObjective,
    ImplicitScoreMatching,
    SlicedScoreMatching,
    distances,
    projections,
    weights,
)
from denoiselab.objectives.level_distributions import Draw, LevelDistribution, SingleLevel, UniformTime
from denoiselab.objectives.uncertainty import Uncertainty
from denoiselab.schedules import EDM, DiscreteVP, Flow, VPCosine, VPLinear, betas
from denoiselab.schedules.base import like

N = 20_000


class Perturbed(torch.nn.Module):
    """The output that the posterior mean has in a parameterization, scaled and shifted."""

    def __init__(self, oracle, schedule, parameterization, scale=0.0, shift=0.0, raw=None):
        super().__init__()
        self.oracle, self.schedule, self.parameterization = oracle, schedule, parameterization
        self.scale, self.shift, self.raw = scale, shift, raw

    def forward(self, x, label, cond=None):
        level = self.schedule.level(label)
        x0, eps, *_ = self.oracle(x, level)
        a, b = self.parameterization(level)
        out = (like(a, x) * x0 + like(b, x) * eps) * (1 + self.scale) + self.shift
        return out if self.raw is None else torch.cat((out, self.raw * torch.ones_like(x)), 1)


def draw(oracle, n=N):
    generator = torch.Generator().manual_seed(0)
    component = torch.multinomial(oracle.weights, n, replacement=True, generator=generator)
    return oracle.means[component] + oracle.stds[component, None] * torch.randn(n, 1, dtype=F64, generator=generator)


def z_score(values, expected=0.0):
    return float((values.mean() - expected) / (values.std() / len(values) ** 0.5))


def gradients(objective, schedule, parameterization, variance=None, raw=None, size=1e-2):
    """Slopes of the loss, sample by sample, along a scaling and a shift of the optimal output."""
    oracle = mixture()
    x0 = draw(oracle)
    for scale, shift in ((size, 0.0), (0.0, size)):
        losses = []
        for sign in (1, -1):
            network = Perturbed(oracle, schedule, parameterization, sign * scale, sign * shift, raw)
            denoiser = Denoiser(network, schedule, parameterization, ScaledTime(1.0), variance=variance)
            losses.append(objective(denoiser, x0, Noise(1, torch.arange(N))).double().detach())
        yield (losses[0] - losses[1]) / (2 * size)


WEIGHTINGS = {
    "uniform": weights.uniform,
    "snr": weights.snr,
    "truncated_snr": weights.truncated_snr,
    "min_snr": weights.min_snr,
    "soft_min_snr": weights.soft_min_snr,
    "edm": weights.edm,
    "likelihood": weights.likelihood,
    "sigmoid": weights.sigmoid,
    "p2": weights.p2,
    "annealed": weights.annealed,
    "unit": lambda level: weights.unit(level, parameterizations.v),
}
SPACES = {name: getattr(parameterizations, name) for name in ("eps", "x0", "v", "score", "ncsn", "edm", "velocity")}
PATHS = {"vp_linear": VPLinear(), "vp_cosine": VPCosine(), "edm": EDM(0.02, 20.0), "flow": Flow(0.01, 0.99)}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_posterior_mean_is_the_optimum_of_every_weighting(weighting, path):
    """In a parameterization that depends on the weighting, so that all pairs come up over the suite."""
    place = (list(WEIGHTINGS).index(weighting) + 3 * list(PATHS).index(path)) % len(SPACES)
    objective = DenoisingObjective(WEIGHTINGS[weighting], UniformTime())
    for slope in gradients(objective, PATHS[path], list(SPACES.values())[place]):
        assert slope.std() > 0
        assert abs(z_score(slope)) < 4


@pytest.mark.parametrize("space", SPACES)
def test_the_loss_of_the_posterior_mean_does_not_depend_on_the_parameterization(space):
    oracle, path = mixture(), VPLinear()
    x0 = draw(oracle, 500)

    def loss(parameterization):
        denoiser = Denoiser(Perturbed(oracle, path, parameterization), path, parameterization, ScaledTime(1.0))
        return DenoisingObjective(weights.min_snr, UniformTime())(denoiser, x0, Noise(0, torch.arange(500)))

    assert torch.allclose(loss(SPACES[space]), loss(parameterizations.v), rtol=1e-3, atol=1e-6)


def test_expected_loss_of_the_optimum_on_a_gaussian():
    """E|x0_hat - x0|^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2) at one level, times the weight."""
    from denoiselab.analytic import GaussianDenoiser

    s2, path, t = 0.25, VPLinear(), 0.3
    oracle = GaussianDenoiser(torch.zeros(2, dtype=F64), s2 * torch.eye(2, dtype=F64))
    x0 = s2**0.5 * Noise(5, torch.arange(N)).normal((2,), F64)
    level = path.level(torch.tensor(t, dtype=F64))
    for weighting in (weights.snr, weights.uniform, weights.edm):
        denoiser = Denoiser(Perturbed(oracle, path, parameterizations.v), path, parameterizations.v, ScaledTime(1.0))
        loss = DenoisingObjective(weighting, SingleLevel(t))(denoiser, x0, Noise(0, torch.arange(N))).double()
        error = s2 * level.sigma**2 / (level.alpha**2 * s2 + level.sigma**2)
        z = z_score(loss, float(weighting(level) * error))
        assert abs(z) < 4, z


CHAIN = DiscreteVP(betas.linear(1000))


def accepted(objective, denoisers):
    """The first denoiser that an objective trains."""
    for denoiser in denoisers:
        try:
            objective.check(denoiser)
        except ValueError:
            continue
        return denoiser
    raise AssertionError("no denoiser suits the objective")


# Of classes, of an x0 that is none of the data's, and of flow maps.
OTHERS = ("cross_entropy", "progressive", "mean_flow", "improved_mean_flow", "shortcut")


@pytest.mark.parametrize("name", [name for name in complete("objective") if name not in OTHERS])
def test_every_configured_objective_has_its_optimum_at_the_posterior_mean(name):
    """Along scalings of the output, on a continuous schedule if it takes one; distances but the square differ."""
    objective = build("objective", name)
    fixed, learned = variances.FixedSmall(), variances.Learned()
    found = accepted(
        objective,
        [
            Denoiser(torch.nn.Identity(), path, parameterizations.eps, ScaledTime(), variance=variance)
            for path in (VPLinear(), CHAIN)
            for variance in (fixed, learned)
        ],
    )
    raw = 0.0 if found.variance is learned else None
    if objective.uses_teacher:
        exact = Perturbed(mixture(), found.schedule, parameterizations.eps)
        objective.take_teacher(Denoiser(exact, found.schedule, parameterizations.eps, ScaledTime(1.0)))
    for slope in gradients(objective, found.schedule, parameterizations.eps, found.variance, raw):
        assert slope.isfinite().all()
        if getattr(objective, "distance", distances.l2) is distances.l2:
            assert abs(z_score(slope)) < 4, z_score(slope)


def test_l1_has_its_optimum_at_the_median():
    """A skewed posterior: at the median L1 is flat and at the mean it is not; for L2 the other way round."""
    path, t = VPLinear(), 0.9  # little is left of x0, so the posterior is nearly the prior
    level = path.level(torch.tensor(t, dtype=F64))
    oracle = mixture()
    skewed = draw(oracle, 200_000).exp()  # log-normal-like
    mean, median = float(skewed.mean()), float(skewed.median())
    assert mean > median + 0.1

    class Constant(torch.nn.Module):
        value = 0.0

        def forward(self, x, label, cond=None):
            return torch.full_like(x, self.value)

    network = Constant()
    denoiser = Denoiser(network, path, parameterizations.x0, ScaledTime(1.0))

    def slope(distance, at, h=0.02):
        objective = DenoisingObjective(weights.uniform, SingleLevel(t), distance)
        losses = []
        for network.value in (at + h, at - h):
            losses.append(objective(denoiser, skewed, Noise(0, torch.arange(len(skewed)))).double())
        return z_score((losses[0] - losses[1]) / (2 * h))

    assert level.alpha > 0
    assert abs(slope(distances.l1, median)) < 4
    assert slope(distances.l1, mean) > 10
    assert abs(slope(distances.l2, mean)) < 4
    assert slope(distances.l2, median) < -10


def test_distances():
    e = torch.linspace(-3, 3, 61, dtype=F64)
    assert torch.equal(distances.l2(e), e**2)
    assert torch.equal(distances.l1(e), e.abs())
    inside = e.abs() <= 0.5
    assert torch.allclose(distances.huber(e, 0.5)[inside], e[inside] ** 2)
    assert torch.allclose(distances.huber(e, 0.5)[~inside], (e[~inside].abs() - 0.25))
    assert torch.allclose(distances.pseudo_huber(e, 0.3), (e**2 + 0.09).sqrt() - 0.3, atol=1e-15)
    tiny = torch.tensor([1e-12], dtype=F64)
    assert torch.allclose(distances.pseudo_huber(tiny, 0.3), tiny**2 / 0.6, rtol=1e-6)


def test_learned_uncertainty_is_the_log_of_the_loss():
    """loss / exp(u) + u is least at u = log E loss (arXiv 2312.02696, eq. 15), level by level."""
    torch.manual_seed(0)
    path, uncertainty = VPLinear(), Uncertainty(64)
    level = path.level(torch.linspace(0.05, 1, 64, dtype=F64))
    loss = 0.05 + 2 * level.sigma.float() ** 4
    optimizer = torch.optim.Adam(uncertainty.parameters(), lr=0.02)
    assert torch.equal(uncertainty(level), torch.zeros(64))
    for _ in range(1500):
        u = uncertainty(level)
        optimizer.zero_grad()
        (loss * (-u).exp() + u).mean().backward()
        optimizer.step()
    assert torch.allclose(uncertainty(level), loss.log(), atol=0.1)


def test_uncertainty_divides_the_loss_and_is_added_to_it():
    """loss / exp(u) + u (arXiv 2312.02696, eq. 15); the level distribution observes the loss alone."""
    torch.manual_seed(0)
    oracle, path, told, uncertainty = mixture(), VPLinear(), Told(), Uncertainty(16)
    torch.nn.init.normal_(uncertainty.linear.weight, std=0.3)
    denoiser = Denoiser(Perturbed(oracle, path, parameterizations.v, 0.3), path, parameterizations.v, ScaledTime(1.0))
    x0, noise = draw(oracle, 6), functools.partial(Noise, 0, torch.arange(6))
    plain = DenoisingObjective(weights.snr, UniformTime())(denoiser, x0, noise())
    loss = DenoisingObjective(weights.snr, told, uncertainty=uncertainty)(denoiser, x0, noise())
    u = uncertainty(told.level)
    assert u.std() > 0.1
    assert torch.allclose(loss, (plain * (-u).exp() + u) * torch.tensor([2.0, 4, 6, 8, 10, 12]), rtol=1e-5)
    assert torch.allclose(told.losses, plain)


def test_uncertainty_at_pure_noise_is_a_number():
    torch.manual_seed(0)
    uncertainty = Uncertainty(8)
    torch.nn.init.ones_(uncertainty.linear.weight)
    assert uncertainty(Flow().level(torch.tensor([0.5, 1.0], dtype=F64))).isfinite().all()


class Told(LevelDistribution):
    """Levels of weight 2, 4, 6, ...; it keeps what it is told."""

    def forward(self, schedule, noise):
        weight = 2 * (torch.arange(len(noise.index), dtype=F64) + 1)
        return Draw(UniformTime()(schedule, noise).level, weight)

    def observe(self, level, losses):
        self.level, self.losses = level, losses

    def check(self, schedule):
        raise ValueError("told")


REGRESSIONS = [
    lambda levels: DenoisingObjective(weights.min_snr, levels),
    lambda levels: ImplicitScoreMatching(levels),
    lambda levels: SlicedScoreMatching(levels, projections.rademacher),
]


@pytest.mark.parametrize("make", REGRESSIONS)
def test_importance_weights_the_loss_and_sees_it_unweighted(make):
    oracle, path, told = mixture(), VPLinear(), Told()
    denoiser = Denoiser(Perturbed(oracle, path, parameterizations.v, 0.3), path, parameterizations.v, ScaledTime(1.0))
    x0, noise = draw(oracle, 6), functools.partial(Noise, 0, torch.arange(6))
    plain = make(UniformTime())(denoiser, x0, noise())
    loss = make(told)(denoiser, x0, noise())
    assert torch.allclose(loss, plain * torch.tensor([2.0, 4, 6, 8, 10, 12]))
    assert torch.allclose(told.losses.float(), plain)
    assert torch.equal(told.level.t, UniformTime()(path, noise()).level.t)


@pytest.mark.parametrize("make", REGRESSIONS)
def test_regressions_refuse_a_learned_variance_and_levels_that_are_not_there(make):
    path = VPLinear()
    learned, plain = (
        Denoiser(torch.nn.Identity(), path, parameterizations.v, ScaledTime(), variance=v)
        for v in (variances.LearnedRange(), None)
    )
    with pytest.raises(ValueError, match="does not train a learned variance"):
        make(UniformTime()).check(learned)
    with pytest.raises(ValueError, match="told"):
        make(Told()).check(plain)
    make(UniformTime()).check(plain)


def test_sum_is_the_mean_times_the_dimensions():
    path = VPLinear()

    class Zero(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return torch.zeros_like(x)

    denoiser = Denoiser(Zero(), path, parameterizations.eps, ScaledTime())
    x0 = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, total = (
        DenoisingObjective(weights.snr, UniformTime(), sum_dimensions=s)(denoiser, x0, Noise(0, torch.arange(6)))
        for s in (False, True)
    )
    assert torch.allclose(total, 48 * mean)
