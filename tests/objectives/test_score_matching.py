"""Score matching on distributions whose score is known."""

import math

import pytest
import torch
from oracles import F64

from denoiselab import parameterizations
from denoiselab.analytic import GaussianDenoiser
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.networks import DiT
from denoiselab.noise import Noise
from denoiselab.objectives import DenoisingObjective, ImplicitScoreMatching, SlicedScoreMatching, projections, weights
from denoiselab.objectives.level_distributions import SingleLevel, UniformTime
from denoiselab.schedules import VPLinear
from denoiselab.testing.networks import wake

SCHEDULE = VPLinear()
MEAN = torch.tensor([0.3, -0.4], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
ORACLE = GaussianDenoiser(MEAN, COVARIANCE)
N = 20_000
T = 0.4


class Affine(torch.nn.Module):
    """The exact eps of the Gaussian, times a matrix, plus a shift: exact at (I, 0)."""

    def __init__(self, matrix=None, shift=None):
        super().__init__()
        self.matrix = torch.eye(2, dtype=F64) if matrix is None else matrix
        self.shift = torch.zeros(2, dtype=F64) if shift is None else shift

    def forward(self, x, label, cond=None):
        return ORACLE(x, SCHEDULE.level(label)).eps @ self.matrix.T + self.shift


def denoiser(network=None):
    return Denoiser(network or Affine(), SCHEDULE, parameterizations.eps, ScaledTime(1.0))


def data(n=N, seed=1):
    z = Noise(seed, torch.arange(n)).normal((2,), F64)
    return MEAN + z @ torch.linalg.cholesky(COVARIANCE).T


def loss(objective, network=None, n=N, seed=0):
    return objective(denoiser(network), data(n), Noise(seed, torch.arange(n))).double()


def z_score(values, expected=0.0):
    return float((values.mean() - expected) / (values.std() / len(values) ** 0.5))


def sliced(levels, projection=projections.rademacher, **options):
    return SlicedScoreMatching(levels, projection, **options)


EACH = [
    ImplicitScoreMatching(UniformTime()),
    ImplicitScoreMatching(UniformTime(), power=0.0, sum_dimensions=True),
    *[sliced(UniformTime(), p) for p in (projections.rademacher, projections.gaussian, projections.sphere)],
    sliced(UniformTime(), variance_reduced=False, count=2),
    DenoisingObjective(weights.snr, UniformTime()),
    DenoisingObjective(weights.annealed, SingleLevel(T)),
]


def by_hand(network, n=50):
    """eps = A P (x - m) + c with P = sigma / C_t, its Jacobian, sigma, and the noise after the draw of x."""
    level = SCHEDULE.level(torch.tensor(T, dtype=F64))
    total = level.alpha**2 * COVARIANCE + level.sigma**2 * torch.eye(2, dtype=F64)
    linear = network.matrix @ (level.sigma * torch.linalg.inv(total))
    noise = Noise(0, torch.arange(n))
    x0 = data(n)
    x = level.alpha * x0 + level.sigma * noise.like(x0)
    return (x - level.alpha * MEAN) @ linear.T + network.shift, linear, level.sigma, noise


@pytest.mark.parametrize("network", [Affine(), Affine(torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64), MEAN)])
def test_implicit_loss_of_an_affine_score_is_its_closed_form(network):
    """sigma^2 (|s|^2 / 2 + tr ds/dx) per sample."""
    n = 50
    eps, linear, sigma, _ = by_hand(network, n)
    level = SCHEDULE.level(torch.tensor(T, dtype=F64))
    want = eps.square().sum(1) / 2 - sigma * linear.trace()
    got = loss(ImplicitScoreMatching(SingleLevel(T), sum_dimensions=True), network, n)
    assert torch.allclose(got, want, rtol=1e-5)  # the loss is float32
    mean = loss(ImplicitScoreMatching(SingleLevel(T)), network, n)
    assert torch.allclose(mean, want / 2, rtol=1e-5)
    plain = loss(ImplicitScoreMatching(SingleLevel(T), power=0.0, sum_dimensions=True), network, n)
    assert torch.allclose(plain, want / level.sigma**2, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("projection", [projections.rademacher, projections.gaussian, projections.sphere])
def test_sliced_loss_of_an_affine_score_is_its_closed_form(projection, count):
    """Equations 8 and 7 per sample, with the directions that were drawn."""
    network = Affine(torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64), MEAN)
    for variance_reduced in (True, False):
        eps, linear, sigma, noise = by_hand(network)
        want = []
        for _ in range(count):
            v = projection(eps, noise)
            square = eps.square().sum(1) if variance_reduced else (v * eps).sum(1).square()
            want.append(square / 2 - sigma * torch.einsum("bi,ij,bj->b", v, linear, v))
        options = {"count": count, "variance_reduced": variance_reduced, "sum_dimensions": True}
        got = loss(sliced(SingleLevel(T), projection, **options), network, 50)
        assert torch.allclose(got, torch.stack(want).mean(0), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_closed_form():
    """The trace is trained too: its gradient in A is not that of |s|^2 / 2 alone."""
    matrix = torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64, requires_grad=True)
    network = Affine(matrix)
    eps, linear, sigma, noise = by_hand(network)
    v = projections.rademacher(eps, noise)
    square = eps.square().sum() / 2
    wanted = (
        (ImplicitScoreMatching(SingleLevel(T), sum_dimensions=True), square - 50 * sigma * linear.trace()),
        (
            sliced(SingleLevel(T), sum_dimensions=True),
            square - sigma * torch.einsum("bi,ij,bj->", v, linear, v),
        ),
    )
    for objective, want in wanted:
        got = torch.autograd.grad(loss(objective, network, 50).sum(), matrix)[0]
        assert torch.allclose(got, torch.autograd.grad(want, matrix, retain_graph=True)[0], rtol=1e-5)


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("projection", [projections.rademacher, projections.gaussian, projections.sphere])
def test_sliced_is_implicit_in_expectation(projection, variance_reduced):
    network = Affine(torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64), MEAN)
    exact = loss(ImplicitScoreMatching(UniformTime()), network)
    estimate = loss(sliced(UniformTime(), projection, variance_reduced=variance_reduced), network)
    z = z_score(estimate - exact)
    assert estimate.std() > 0
    assert abs(z) < 4, z
    assert (estimate - exact).std() > 1e-3


def test_more_directions_reduce_the_variance():
    exact = loss(ImplicitScoreMatching(SingleLevel(T)))

    def spread(count):
        return float((loss(sliced(SingleLevel(T), projections.gaussian, count=count)) - exact).std())

    assert spread(4) == pytest.approx(spread(1) / 2, rel=0.05)


def test_variance_of_both_forms():
    """For the exact score of N(0, I / p) in D dimensions and Gaussian directions the variances around the implicit loss
    are 2 D p^2 (eq. 8) and 2 D p^2 + (D^2 / 2 - D) p^2 (eq. 7): equal in the plane, more above."""
    dimensions = 8
    level = SCHEDULE.level(torch.tensor(T, dtype=F64))
    total = level.alpha**2 * 0.25 + level.sigma**2

    class Exact(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return level.sigma / total * x

    x0 = 0.5 * Noise(1, torch.arange(N)).normal((dimensions,), F64)

    def values(objective):
        return objective(denoiser(Exact()), x0, Noise(0, torch.arange(N))).double()

    exact = values(ImplicitScoreMatching(SingleLevel(T), sum_dimensions=True))
    p = float(level.sigma**2 / total)
    for variance_reduced, extra in ((True, 0), (False, dimensions**2 / 2 - dimensions)):
        options = {"variance_reduced": variance_reduced, "sum_dimensions": True}
        error = values(sliced(SingleLevel(T), projections.gaussian, **options)) - exact
        assert float(error.var()) == pytest.approx((2 * dimensions + extra) * p**2, rel=0.1)


@pytest.mark.parametrize("projection", [projections.rademacher, projections.gaussian, projections.sphere])
def test_directions_have_unit_covariance_and_belong_to_their_sample(projection):
    x = torch.zeros(N, 3, dtype=F64)
    v = projection(x, Noise(0, torch.arange(N)))
    second = v.T @ v / N
    assert torch.allclose(second, torch.eye(3, dtype=F64), atol=5 * 1.5 / N**0.5)
    part = projection(x[:10], Noise(0, torch.arange(100, 110)))
    assert torch.equal(v[100:110], part)
    if projection is projections.sphere:
        assert torch.allclose(v.norm(dim=1), torch.full((N,), math.sqrt(3), dtype=F64))


@pytest.mark.parametrize("objective", EACH)
@pytest.mark.parametrize("which", ["shift", "scale", "stretch"])
def test_the_true_score_is_the_optimum(objective, which):
    """The gradient of the expected loss along perturbations of the exact score is zero: |z| < 4."""
    h = 1e-2

    def network(sign):
        if which == "shift":
            return Affine(shift=sign * h * torch.tensor([1.0, -0.5], dtype=F64))
        direction = {"scale": torch.eye(2), "stretch": torch.tensor([[1.0, 0.3], [0.0, -0.5]])}[which].double()
        return Affine(torch.eye(2, dtype=F64) + sign * h * direction)

    gradient = (loss(objective, network(1)) - loss(objective, network(-1))) / (2 * h)
    z = z_score(gradient)
    assert gradient.std() > 0
    assert abs(z) < 4, z
    away = (loss(objective, network(31)) - loss(objective, network(29))) / (2 * h)
    assert abs(z_score(away)) > 4  # elsewhere the same test sees a slope


def test_denoising_and_explicit_score_matching_differ_by_their_known_constant():
    """E|s - s_cond|^2 - E|s - s_true|^2 = D / sigma^2 - E|s_true|^2 for any s (Vincent 2011); here tr C_t^-1."""
    level = SCHEDULE.level(torch.tensor(T, dtype=F64))
    total = level.alpha**2 * COVARIANCE + level.sigma**2 * torch.eye(2, dtype=F64)
    network = Affine(torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64), MEAN)
    noise, x0 = Noise(0, torch.arange(N)), data()
    eps = noise.like(x0)
    x = level.alpha * x0 + level.sigma * eps
    model = -network(x, torch.full((N,), T, dtype=F64)) / level.sigma
    explicit = (model - ORACLE.score(x, level)).square().sum(1)
    objective = DenoisingObjective(lambda lvl: 2 * weights.annealed(lvl, 0.0), SingleLevel(T), sum_dimensions=True)
    denoising = loss(objective, network)
    constant = float(2 / level.sigma**2 - torch.linalg.inv(total).trace())
    z = z_score(denoising - explicit, constant)
    assert constant > 0.1
    assert abs(z) < 4, z


def test_implicit_and_denoising_losses_differ_by_half_a_dimension():
    """sigma^2 (|s|^2 / 2 + tr ds/dx) and |eps_hat - eps|^2 / 2 differ by D / 2 in expectation, whatever the model."""
    network = Affine(torch.tensor([[0.7, 0.3], [-0.2, 1.1]], dtype=F64), MEAN)
    implicit = loss(ImplicitScoreMatching(UniformTime(), sum_dimensions=True), network)
    denoising = loss(DenoisingObjective(weights.snr, UniformTime(), sum_dimensions=True), network) / 2
    z = z_score(denoising - implicit, 1.0)
    assert abs(z) < 4, z


def test_gradients_reach_the_network():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, label, cond=None):
            return self.inner(x)

    for objective in (ImplicitScoreMatching(SingleLevel(T)), sliced(SingleLevel(T))):
        network.zero_grad()
        objective(denoiser(Net()), data(64), Noise(0, torch.arange(64))).mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (network[0].weight, network[2].weight))


def test_attention_and_evaluation():
    """Fused attention has no second derivative; and there is a trace where gradients are off."""
    torch.manual_seed(0)

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(1, 4, dtype=F64)

        def forward(self, x, label, cond=None):
            h = self.inner(x[:, None, :, None])
            return torch.nn.functional.scaled_dot_product_attention(h, h, h).mean((1, 3))

    network = Attention()
    for objective in (ImplicitScoreMatching(SingleLevel(T)), sliced(SingleLevel(T))):
        trained = loss(objective, network, 32)
        trained.mean().backward()
        with torch.no_grad():
            assert torch.equal(loss(objective, network, 32), trained)


def test_images_have_as_many_dimensions_as_pixels():
    class Linear(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return 0.5 * x

    objective = ImplicitScoreMatching(SingleLevel(T), sum_dimensions=True)
    x0 = torch.zeros(3, 2, 2, 2, dtype=F64)
    level = SCHEDULE.level(torch.tensor(T, dtype=F64))
    x = level.sigma * Noise(0, torch.arange(3)).like(x0)
    want = (0.5 * x).square().flatten(1).sum(1) / 2 - level.sigma * 0.5 * 8
    assert torch.allclose(objective(denoiser(Linear()), x0, Noise(0, torch.arange(3))).double(), want, rtol=1e-5)
    mean = ImplicitScoreMatching(SingleLevel(T))
    assert torch.allclose(mean(denoiser(Linear()), x0, Noise(0, torch.arange(3))).double(), want / 8, rtol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="count=0"):
        sliced(UniformTime(), count=0)
    with pytest.raises(ValueError, match=r"t=7.0"):
        ImplicitScoreMatching(SingleLevel(7.0)).check(denoiser())


@pytest.mark.parametrize("objective", [sliced(SingleLevel(T)), ImplicitScoreMatching(SingleLevel(T))])
def test_activations_that_are_computed_again_change_no_gradient(objective):
    """The second pass, too, needs the attention that can be differentiated twice, outside of the objective's call."""
    wanted, found = [], []
    for levels, out in ((), wanted), ("all", found):
        torch.manual_seed(0)
        network = DiT((1, 4, 4), width=16, depth=2, heads=2, checkpoint_levels=levels)
        wake(network, torch.Generator().manual_seed(0))
        x0 = torch.ones(2, 1, 4, 4)
        objective(denoiser(network), x0, Noise(0, torch.arange(2))).mean().backward()
        out += [p.grad for p in network.parameters() if p.grad is not None]
    assert len(wanted) > 20
    assert all(map(torch.equal, found, wanted))
