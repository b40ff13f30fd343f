"""Closed-form denoisers against quadrature, scipy, automatic differentiation and each other."""

import copy
import math
import time

import pytest
import torch
from oracles import F64, flow_map, mixture
from scipy.stats import multivariate_normal, norm
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from denoiselab.analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from denoiselab.noise import Noise
from denoiselab.schedules import Flow, Level, SubVP, VEGeometric, VPLinear

MEAN = torch.tensor([0.3, -1.0], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=F64)
WIDE = MixtureDenoiser(
    torch.tensor([[0.5, 1.0], [-1.0, 0.2], [0.1, -0.7]], dtype=F64),
    torch.tensor([0.3, 0.5, 0.1], dtype=F64),
    torch.tensor([0.2, 0.5, 0.3], dtype=F64),
)
POINTS = torch.randn(37, 2, dtype=F64, generator=torch.Generator().manual_seed(5))
ORACLES = [GaussianDenoiser(MEAN, COVARIANCE), WIDE, EmpiricalDenoiser(POINTS, chunk=10)]
X = torch.randn(11, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
LEVELS = VPLinear().level(torch.tensor([1e-3, 0.05, 0.3, 0.7, 1.0], dtype=F64)).unbind()


def at(alpha, sigma):
    return Level(torch.zeros((), dtype=F64), torch.tensor(alpha, dtype=F64), torch.tensor(sigma, dtype=F64))


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("level", [*LEVELS, at(1.0, 5.0)])
def test_score_is_the_gradient_of_the_log_density(oracle, level):
    x = (level.alpha * POINTS[:11] + level.sigma * X).requires_grad_()
    gradient = torch.autograd.grad(oracle.log_density(x, level).sum(), x)[0]
    assert torch.allclose(oracle.score(x.detach(), level), gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("oracle", ORACLES)
def test_predictions_add_up_to_x(oracle):
    for level in LEVELS:
        x0, eps, *_ = oracle(X, level)
        assert torch.allclose(level.alpha * x0 + level.sigma * eps, X, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("oracle", ORACLES)
def test_a_level_for_each_sample(oracle):
    level = VPLinear().level(torch.linspace(0.01, 1, len(X), dtype=F64))
    whole, density = oracle(X, level), oracle.log_density(X, level)
    for i, one in enumerate(level.unbind()):
        assert torch.allclose(whole.x0[i], oracle(X[i : i + 1], one).x0[0], rtol=1e-11)
        assert torch.allclose(density[i], oracle.log_density(X[i : i + 1], one)[0], rtol=1e-11)


def test_densities_are_those_of_scipy():
    level = LEVELS[2]
    cov = level.alpha**2 * COVARIANCE + level.sigma**2 * torch.eye(2, dtype=F64)
    want = multivariate_normal((level.alpha * MEAN).numpy(), cov.numpy()).logpdf(X.numpy())
    assert torch.allclose(ORACLES[0].log_density(X, level), torch.from_numpy(want), rtol=1e-12)
    for oracle, means, stds, weights in (
        (WIDE, WIDE.means, WIDE.stds, WIDE.weights),
        (ORACLES[2], POINTS, torch.zeros(37, dtype=F64), torch.full((37,), 1 / 37, dtype=F64)),
    ):
        total = torch.zeros(len(X), dtype=F64)
        for mean, std, weight in zip(means, stds, weights, strict=True):
            variance = float((level.alpha * std) ** 2 + level.sigma**2)
            total += weight * torch.from_numpy(
                multivariate_normal((level.alpha * mean).numpy(), variance).pdf(X.numpy())
            )
        assert torch.allclose(oracle.log_density(X, level), total.log(), rtol=1e-11)


@pytest.mark.parametrize("level", LEVELS)
def test_densities_integrate_to_one(level):
    """The trapezoidal rule on a line that holds every tail; its step is far below the narrowest deviation."""
    points = torch.tensor([[-0.8], [0.1], [0.9]], dtype=F64)
    one = torch.tensor([0.4], dtype=F64)
    for oracle in (mixture(), GaussianDenoiser(one, one[None]), EmpiricalDenoiser(points, chunk=2)):
        line = torch.linspace(-15, 15, 30_001, dtype=F64)
        density = oracle.log_density(line[:, None], level).exp()
        assert float(torch.trapezoid(density, line)) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("level", LEVELS)
def test_posterior_mean_by_quadrature(level):
    """E[x0 | x] of the 1-D mixture on a fine grid of x0."""
    oracle = mixture()
    grid = torch.linspace(-4, 4, 200_001, dtype=F64)
    prior = sum(
        w * torch.from_numpy(norm(float(m), float(s)).pdf(grid.numpy()))
        for w, m, s in zip(oracle.weights, oracle.means[:, 0], oracle.stds, strict=True)
    )
    for x in (-1.2, 0.1, 0.8):
        log_likelihood = -((x - level.alpha * grid) ** 2) / (2 * level.sigma**2)
        posterior = prior * (log_likelihood - log_likelihood.max()).exp()
        want = (posterior * grid).sum() / posterior.sum()
        got = oracle(torch.tensor([[x]], dtype=F64), level).x0[0, 0]
        assert float(got) == pytest.approx(float(want), rel=1e-6, abs=1e-8)


def test_a_gaussian_is_a_mixture_of_one_and_a_mixture_of_points_is_empirical():
    level = LEVELS[2]
    round_one = GaussianDenoiser(MEAN, 0.49 * torch.eye(2, dtype=F64))
    one = MixtureDenoiser(MEAN[None], torch.tensor([0.7], dtype=F64), torch.ones(1, dtype=F64))
    points = MixtureDenoiser(POINTS, torch.zeros(37, dtype=F64), torch.full((37,), 1 / 37, dtype=F64))
    for a, b in ((round_one, one), (points, ORACLES[2])):
        assert torch.allclose(a(X, level).x0, b(X, level).x0, rtol=1e-10, atol=1e-12)
        assert torch.allclose(a(X, level).eps, b(X, level).eps, rtol=1e-10, atol=1e-12)
        assert torch.allclose(a.log_density(X, level), b.log_density(X, level), rtol=1e-11)


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP(), VEGeometric(), Flow(t_max=0.99)])
def test_flow_of_a_gaussian_is_its_closed_form(schedule):
    here, there = (schedule.at(torch.tensor(lam, dtype=F64)) for lam in (-3.0, 3.0))
    oracle = ORACLES[0]
    exact = oracle.flow(X, here, there)
    numerical = super(GaussianDenoiser, oracle).flow(X, here, there)
    assert torch.allclose(numerical, exact, rtol=0, atol=1e-9)
    assert torch.allclose(oracle.flow(exact, there, here), X, rtol=1e-10)


def test_flow_of_a_gaussian_carries_one_marginal_to_the_other():
    """The map is affine, so mean and covariance follow exactly; also to clean data."""
    here, oracle = LEVELS[3], ORACLES[0]
    basis = torch.cat((torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)))
    for there in (LEVELS[1], Level.clean()):
        image = oracle.flow(basis, here, there)
        matrix, shift = (image[1:] - image[0]).T, image[0]
        mean = matrix @ (here.alpha * MEAN) + shift
        covariance = matrix @ (here.alpha**2 * COVARIANCE + here.sigma**2 * torch.eye(2, dtype=F64)) @ matrix.T
        assert torch.allclose(mean, there.alpha * MEAN, rtol=1e-12)
        want = there.alpha**2 * COVARIANCE + there.sigma**2 * torch.eye(2, dtype=F64)
        assert torch.allclose(covariance, want, rtol=1e-11)


@pytest.mark.parametrize(("first", "last"), [(-5.0, 6.0), (6.0, -5.0)])
def test_flow_of_a_mixture_is_the_map_of_quantiles(first, last):
    oracle = mixture()
    here, there = (at(1 / math.hypot(1, math.exp(-lam)), 1 / math.hypot(1, math.exp(lam))) for lam in (first, last))
    x = torch.linspace(-2, 2, 21, dtype=F64)
    exact = flow_map(oracle, x, here, there)
    assert (oracle.flow(x[:, None], here, there)[:, 0] - exact).abs().max() < 1e-9
    coarse, fine = (oracle.flow(x[:, None], here, there, steps=n)[:, 0] for n in (60, 120))
    ratio = float((coarse - exact).abs().max() / (fine - exact).abs().max())
    assert math.log2(ratio) == pytest.approx(5, abs=1.0)


def test_flow_carries_the_empirical_distribution_to_its_examples():
    """From almost pure noise to almost clean data, each point ends at an example: sigma times a normal draw away."""
    here, there = at(0.0067, 0.99998), at(1.0, 1e-3)
    oracle = EmpiricalDenoiser(POINTS)
    end = oracle.flow(X, here, there)
    nearest = torch.cdist(end, POINTS).min(1).values
    assert nearest.max() < 5e-3
    assert torch.allclose(oracle.flow(X, here, there, steps=600), end, rtol=0, atol=1e-6)


@pytest.mark.parametrize("oracle", ORACLES)
def test_both_ends(oracle):
    prior = {0: MEAN, 1: WIDE.weights @ WIDE.means, 2: POINTS.mean(0)}[ORACLES.index(oracle)]
    noise = oracle(X, at(0.0, 1.0))
    assert torch.allclose(noise.x0, prior.expand_as(X), rtol=1e-12)
    assert torch.allclose(noise.eps, X, rtol=1e-12)
    near = at(1.0, 1e-6)
    x = POINTS[:5] + 1e-6 * X[:5]
    data = oracle(x, near)
    assert torch.allclose(data.x0, x, atol=5e-6)
    assert data.eps.isfinite().all()
    single = oracle(X.float(), LEVELS[2])
    assert single.x0.dtype == torch.float32
    assert torch.allclose(single.x0.double(), oracle(X.float().double(), LEVELS[2]).x0, rtol=1e-6, atol=1e-7)


def test_a_singular_covariance_estimated_in_float32():
    """Three examples in five dimensions: rounding leaves eigenvalues below zero, which are no error."""
    examples = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    covariance = torch.cov(examples.T)
    assert torch.linalg.eigvalsh(covariance.double())[0] < 0
    oracle, x = GaussianDenoiser(examples.mean(0), covariance), torch.randn(4, 5, dtype=F64)
    assert (oracle.variances >= 0).all()
    assert oracle(x, at(1.0, 1e-6)).x0.isfinite().all()


def test_a_singular_covariance():
    oracle = GaussianDenoiser(MEAN, torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64))
    x0 = oracle(X, LEVELS[1]).x0
    assert torch.allclose(x0[:, 0] - x0[:, 1], (MEAN[0] - MEAN[1]).expand(len(X)), rtol=1e-9)


def test_the_empirical_denoiser_does_not_depend_on_its_chunks():
    w = torch.rand(37, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.1
    for level in LEVELS:
        whole, *parts = (EmpiricalDenoiser(POINTS, w / w.sum(), chunk=c)(X, level).x0 for c in (100, 1, 7, 36))
        for part in parts:
            assert torch.allclose(part, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigma", [1e-2, 1e-4, 1e-6, 1e-8])
def test_near_duplicates_at_small_noise(sigma):
    """Two images sigma apart share the posterior; the mixture, which holds every difference, says how."""
    generator = torch.Generator().manual_seed(3)
    data = torch.rand(50, 784, dtype=F64, generator=generator)
    data[31] = data[8] + sigma / 28 * torch.randn(784, dtype=F64, generator=generator)
    x = data[8:9] + sigma * torch.randn(4, 784, dtype=F64, generator=generator)
    empirical, level = EmpiricalDenoiser(data, chunk=16), at(1.0, sigma)
    direct = MixtureDenoiser(data, torch.zeros(50, dtype=F64), torch.full((50,), 1 / 50, dtype=F64))
    assert torch.allclose(empirical.log_density(x, level), direct.log_density(x, level), rtol=1e-12)
    gap = (data[31] - data[8]).norm()
    assert (empirical(x, level).x0 - direct(x, level).x0).norm(dim=1).max() < 1e-6 * gap
    share = (direct(x, level).x0 - data[8]).norm(dim=1) / gap
    assert (share > 0.01).any()
    assert (share < 0.99).any()


@pytest.mark.parametrize("sigma", [1e-6, 1e-30, 1e-160, 0.0])
def test_without_noise_the_empirical_denoiser_finds_the_nearest_example(sigma):
    x0 = EmpiricalDenoiser(POINTS, chunk=10)(X, at(0.9, sigma)).x0
    nearest = torch.cdist(X, 0.9 * POINTS).argmin(1)
    assert torch.equal(x0, POINTS[nearest])


class LargestTensor(TorchDispatchMode):
    """Notes the size in bytes of the largest storage that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.slow
def test_the_empirical_denoiser_remembers_60_000_images():
    """In chunks, in seconds; a noisy image of the set goes back to itself, and shapes are kept."""
    data = torch.randn(60_000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    oracle, level = EmpiricalDenoiser(data, chunk=2048), at(1.0, 0.5)
    x = data[:16] + 0.5 * Noise(1, torch.arange(16)).normal((1, 28, 28))
    start = time.process_time()
    with LargestTensor() as memory:
        prediction = oracle(x, level)
    assert time.process_time() - start < 60
    assert prediction.x0.shape == x.shape
    assert torch.allclose(prediction.x0, data[:16], atol=1e-5)
    # One chunk in float64; all 60,000 images would be 29 times that.
    assert 16 * 2048 * 8 <= memory.largest <= 2048 * 784 * 8


def test_scalar_levels_on_the_cpu_serve_data_on_another_device():
    oracles = [ORACLES[0], MixtureDenoiser(WIDE.means, WIDE.stds, WIDE.weights), EmpiricalDenoiser(POINTS, chunk=10)]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = torch.empty(5, 2, device="cuda")
        for oracle in oracles:
            moved = copy.copy(oracle)
            for name, value in vars(oracle).items():
                if isinstance(value, torch.Tensor):
                    setattr(moved, name, mode.from_tensor(value).to("cuda"))
            assert moved(x, LEVELS[2]).x0.device == x.device
            assert moved.log_density(x, LEVELS[2]).device == x.device
            assert moved.score(x, LEVELS[2]).device == x.device


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianDenoiser(MEAN, torch.eye(3)), "covariance: its shape is"),
        (lambda: GaussianDenoiser(MEAN, torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (lambda: GaussianDenoiser(MEAN, torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "negative eigenvalue"),
        (lambda: MixtureDenoiser(POINTS, torch.ones(3), torch.ones(3) / 3), "must be"),
        (lambda: MixtureDenoiser(POINTS[:2], torch.tensor([-1.0, 1.0]), torch.ones(2) / 2), "stds"),
        (lambda: MixtureDenoiser(POINTS[:2], torch.ones(2), torch.ones(2)), "the sum is 2"),
        (lambda: MixtureDenoiser(POINTS[:2], torch.tensor([math.nan, 1.0]), torch.ones(2) / 2), "stds"),
        (lambda: MixtureDenoiser(POINTS[:2], torch.ones(2), torch.tensor([math.nan, 1.0])), "the sum is nan"),
        (lambda: MixtureDenoiser(POINTS[:2], torch.ones(2), torch.tensor([0.0, 1.0])), "must be positive"),
        (lambda: GaussianDenoiser(MEAN, torch.full((2, 2), math.nan)), "symmetric"),
        (lambda: WIDE.flow(X, Level.clean(), LEVELS[0]), "here: its half log-SNR is inf"),
        (lambda: WIDE.flow(X, LEVELS[0], at(0.0, 1.0)), "there: its half log-SNR is -inf"),
        (lambda: WIDE.flow(X, LEVELS[1], LEVELS[0], steps=0), "steps=0"),
        (lambda: EmpiricalDenoiser(POINTS[:0]), "no example"),
        (lambda: EmpiricalDenoiser(POINTS, torch.ones(3) / 3), "weights: their shape"),
        (lambda: EmpiricalDenoiser(POINTS, chunk=0), "chunk=0"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
