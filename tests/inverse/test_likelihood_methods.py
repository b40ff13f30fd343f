"""Likelihood methods: posteriors of a Gaussian, exactly, and of a mixture, where they are wrong by known amounts."""

import math

import pytest
import torch
import yaml
from affine_push import OPERATOR, PRIOR, errors, posterior, pushed
from configurations import CONF, build
from oracles import F64, variant

from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Prediction
from denoiselab.inverse import (
    DDNM,
    MMPS,
    TMPD,
    AveragePool,
    DiffPIR,
    DPSLikelihood,
    LikelihoodMethod,
    LinearOperator,
    Mask,
    PiGDMScore,
    ReconstructionGuidance,
)
from denoiselab.nodes.instantiate import check, construct
from denoiselab.noise import Noise
from denoiselab.samplers.observers import Tally
from denoiselab.schedules import Level, VPLinear
from denoiselab.schedules.base import like

Y = torch.tensor([0.7, -0.5], dtype=F64)


def missed(denoise, sampler, steps, sigma_y=0.1):
    """The mean's distance in standard deviations of the posterior, and the ratio of variances: runs are affine."""
    draws = steps + 1 if sampler.stochastic else 1
    return errors(*pushed(lambda y: sampler, steps, draws, denoise, Y), Y, sigma_y)


# The mean's distance and the ratio of variances: of 2M with 400 steps, and of ancestral steps, 100 of them.
BIASES = {
    MMPS(2): ((0.0025, 0.999), (0.0, 0.841)),
    MMPS(2, "cg"): ((0.0025, 0.999), (0.0, 0.841)),
    TMPD(): ((0.473, 1.080), (0.270, 0.872)),
    PiGDMScore(): ((0.585, 1.120), (0.392, 0.974)),
    DiffPIR(): ((0.550, 2.721), (0.447, 1.622)),
    DDNM(): ((0.550, 2.613), (0.443, 1.539)),
    ReconstructionGuidance(): ((0.533, 1.930), (0.407, 1.122)),
    DPSLikelihood(): ((1.138, 0.678), (math.inf, math.inf)),  # whose steps of high noise are unstable
}


@pytest.mark.parametrize("method", BIASES, ids=lambda method: type(method).__name__)
def test_ancestral_steps_miss_the_posterior_of_a_gaussian_by_known_amounts(method):
    """MMPS alone has its mean; its variance is that of the exact posterior's denoiser, 0.841."""
    mean, variance = missed(method.wrap(PRIOR, OPERATOR, Y[None], 0.1), build("sampler", "ancestral"), 100)
    if isinstance(method, DPSLikelihood):
        assert variance > 1e12
    else:
        assert (mean, variance) == pytest.approx(BIASES[method][1], abs=1.1e-3)


@pytest.mark.parametrize("steps", [100, pytest.param(400, marks=pytest.mark.benchmark)])
@pytest.mark.parametrize("method", BIASES, ids=lambda method: type(method).__name__)
def test_the_ode_misses_the_posterior_of_a_gaussian_by_known_amounts(method, steps):
    """MMPS alone is exact, up to the error of the steps; the bias of the others does not fall with more steps."""
    found = missed(method.wrap(PRIOR, OPERATOR, Y[None], 0.1), build("sampler", "dpmpp_2m"), steps)
    assert found == pytest.approx(BIASES[method][0], abs=1e-3 if steps == 400 else 7e-3)


@pytest.mark.parametrize(("steps", "sigma_y"), [(25, 0.1), (50, 0.1), (400, 0.01)])
def test_dps_as_a_likelihood_diverges_with_few_steps(steps, sigma_y):
    mean, variance = missed(
        DPSLikelihood().wrap(PRIOR, OPERATOR, Y[None], sigma_y), build("sampler", "dpmpp_2m"), steps, sigma_y
    )
    assert not mean < 1e4
    assert not variance < 1e8


@pytest.mark.parametrize(("steps", "found"), [(50, (0.146, 0.962)), (200, (0.062, 0.991))])
def test_ddnm_that_keeps_eps_converges(steps, found):
    """As published, without noise in y: DDIM without noise of its own has the posterior in the end."""
    denoise = DDNM(keep_eps=True).wrap(PRIOR, OPERATOR, Y[None], 0.0)
    assert missed(denoise, build("sampler", "ddim"), steps, 0.0) == pytest.approx(found, abs=1e-3)


SAMPLERS = [
    *("ancestral", "ddim", "dpmpp_2m", "unipc", "heun", "dpm2", "dpmpp_2m_sde", "predictor_corrector", "ode_adaptive"),
    *("edm_sde", "tab", "dpmpp_3m_sde", "plms", "pc_annealed", "euler_ancestral", "ode_midpoint"),
]


def pairs(name):
    """Samples of a sampler by MMPS with a solved system and by the exact posterior's denoiser."""
    sampler = variant(build("sampler", name), steps=5)
    exact = GaussianDenoiser(*posterior(Y, 0.1))
    for denoise in (MMPS(2).wrap(PRIOR, OPERATOR, Y.expand(5, -1), 0.1), exact):
        yield sampler(denoise, VPLinear(), (4,), Noise(0, torch.arange(5)), dtype=F64)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_solved_mmps_is_the_exact_posterior_with_every_sampler(name):
    found, exact = pairs(name)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_mmps_draws_the_posterior_within_three_standard_errors(name):
    n = 1000
    denoise = MMPS(2).wrap(PRIOR, OPERATOR, Y.expand(n, -1), 0.1)
    x = build("sampler", name)(denoise, VPLinear(), (4,), Noise(0, torch.arange(n)), steps=100, dtype=F64)
    mean, covariance = posterior(Y, 0.1)
    variances = covariance.diagonal()
    assert bool(((x.mean(0) - mean).abs() <= 3 * (variances / n).sqrt()).all())
    assert bool(((x.var(0) - variances).abs() <= 3 * variances * math.sqrt(2 / (n - 1))).all())


@pytest.mark.parametrize(
    ("solver", "expected"),
    [("gmres", [0.298, 0.135, 0.064, 0.012, 0.0006, 0.0]), ("cg", [0.340, 0.174, 0.081, 0.014, 0.0006, 0.0])],
)
def test_more_iterations_of_mmps_come_nearer(solver, expected):
    """32 coordinates, 16 measured: the error of x0 in one call, relative to its shift."""
    covariance = 0.9 ** (torch.arange(32)[:, None] - torch.arange(32)).abs().double()
    prior, operator = GaussianDenoiser(torch.zeros(32), covariance), Mask([1, 0] * 16).bind((32,))
    noise = Noise(0, torch.arange(20))
    y = operator(noise.normal((32,), F64) @ torch.linalg.cholesky(covariance).T)
    level = VPLinear().level(torch.tensor(0.3, dtype=F64))
    x = level.alpha * operator.adjoint(y) + level.sigma * noise.normal((32,), F64)
    before = prior(x, level).x0
    # The posterior of x0 given x is N(before, v): that given y too has the gain of a Gaussian.
    v = torch.linalg.inv(torch.linalg.inv(covariance) + (level.alpha / level.sigma) ** 2 * torch.eye(32, dtype=F64))
    gram = v[::2, ::2] + 0.01 * torch.eye(16, dtype=F64)
    moved = torch.linalg.solve(gram, (y - operator(before)).T).T @ v[::2]
    found = []
    for k in (1, 2, 3, 5, 8, 16):
        x0 = MMPS(k, solver).wrap(prior, operator, y, 0.1)(x, level).x0
        found.append(float((x0 - before - moved).norm() / moved.norm()))
    assert found == pytest.approx(expected, abs=1e-3)


class Clusters(MixtureDenoiser):
    """Four modes in the plane, and the exact denoiser given y = A x + sigma_y z: the control."""

    def __init__(self, row, y, sigma_y):
        means = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], dtype=F64)
        super().__init__(means, torch.full((4,), 0.3), torch.tensor([0.1, 0.2, 0.3, 0.4]))
        self.row, self.y, self.sigma_y = torch.tensor(row, dtype=F64), y, sigma_y

    def likelihood(self, x, level):
        """Log p(y | x), `(B,)`."""
        alpha, _, x, total, joint = self._components(x, level)
        gain = alpha * self.stds[:, None].square() / total
        means = self.means[:, None] + gain[..., None] * (x - alpha * self.means[:, None])
        variance = (
            self.stds[:, None].square() * level.sigma.square() / total * self.row.square().sum() + self.sigma_y**2
        )
        log = -(self.y - means @ self.row).square() / variance / 2 - variance.log() / 2
        return torch.logsumexp(joint.log_softmax(0) + log, 0)

    def given(self, x, level):
        """The exact (x0, eps) given y."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.likelihood(at, level).sum(), at)
        x0, eps, *rest = self(x, level)
        move = like(level.sigma, x) * gradient
        return Prediction(x0 + like(level.rho, x) * move, eps - move, *rest)

    def posterior_draws(self, n):
        """Draws given y: those of a mixture with the same modes, moved and flattened."""
        s2 = self.stds.square()
        variance = s2 * self.row.square().sum() + self.sigma_y**2
        r = self.y - self.means @ self.row
        weights = (self.weights.log() - r.square() / variance / 2).softmax(0)
        noise = Noise(7, torch.arange(n))
        mode = torch.searchsorted(weights.cumsum(0), noise.uniform()).clamp_max(3)
        x = self.means[mode] + self.stds[mode, None] * noise.normal((2,), F64)
        seen = x @ self.row + self.sigma_y * noise.normal((1,), F64)[:, 0]
        return x + ((self.y - seen) * s2[mode] / variance[mode])[:, None] * self.row


def sliced(a, b):
    """Sliced 1-Wasserstein distance of two clouds of one size, over 32 directions."""
    angles = torch.arange(32, dtype=F64) * math.pi / 32
    directions = torch.stack((angles.cos(), angles.sin()))
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean())


# Sliced distances of 20,000 samples by 2M with 50 steps; the prior itself is 0.88 away, the exact denoiser 0.010.
DEVIATIONS = {"MMPS": 0.588, "PiGDMScore": 0.610, "DiffPIR": 0.657, "DDNM": 0.655, "DPSLikelihood": 0.623}


class Projection(LinearOperator):
    """A user's operator, the call alone."""

    def __init__(self, row):
        super().__init__()
        self.row = row

    def forward(self, x):
        return x @ self.row.to(x)[:, None]


def deviations(prior, methods, n):
    """Of samples by 2M with 50 steps from exact ones: of the exact denoiser, of the prior, and of methods."""
    operator, wanted = Projection(prior.row).bind((2,)), prior.posterior_draws(n)
    y = torch.full((n, 1), prior.y, dtype=F64)
    denoisers = {"exact": prior.given, "prior": prior}
    denoisers |= {type(method).__name__: method.wrap(prior, operator, y, prior.sigma_y) for method in methods}
    out = {}
    for name, denoise in denoisers.items():
        x = build("sampler", "dpmpp_2m")(denoise, VPLinear(), (2,), Noise(0, torch.arange(n)), steps=50, dtype=F64)
        out[name] = sliced(x, wanted)
    return out


@pytest.mark.parametrize("n", [500, pytest.param(20_000, marks=pytest.mark.benchmark)])
def test_the_posterior_of_a_mixture_is_missed_by_known_amounts(n):
    """The modes' weights are decided at high noise, where x0 given x_t is not Gaussian: MMPS is far from it too."""
    methods = (MMPS(1), PiGDMScore(), DiffPIR(), DDNM(), DPSLikelihood())
    found = deviations(Clusters([1.0, 0.5], 0.8, 0.1), methods, n)
    wrong = {name: found[name] for name in DEVIATIONS}
    assert found["exact"] < (0.05 if n < 1000 else 0.015)
    assert min(wrong, key=wrong.__getitem__) == "MMPS"
    assert wrong == pytest.approx(DEVIATIONS, abs=0.06 if n < 1000 else 0.01)
    assert found["prior"] == pytest.approx(0.878, abs=0.06 if n < 1000 else 0.01)


@pytest.mark.benchmark
def test_inpainting_without_noise_misses_a_mixture_by_known_amounts():
    """Less than with noise: one coordinate of a mode tells little of the other."""
    found = deviations(Clusters([1.0, 0.0], 0.4, 0.0), (MMPS(1), PiGDMScore(), DiffPIR(), DDNM()), 20_000)
    assert found.pop("DiffPIR") == found["DDNM"]
    expected = {"exact": 0.012, "prior": 0.413, "MMPS": 0.041, "PiGDMScore": 0.037, "DDNM": 0.048}
    assert found == pytest.approx(expected, abs=0.003)


def methods():
    """Those of conf/task/method that change predictions."""
    for path in sorted((CONF / "task" / "method").glob("*.yaml")):
        node = yaml.safe_load(path.read_text())
        if node["_target_"].startswith("denoiselab.inverse."):
            check({"method": node})
            method = construct(node, "method")
            if isinstance(method, LikelihoodMethod):
                yield pytest.param(method, id=path.stem)


# Backward passes of a call, of methods that take several.
SEVERAL = {MMPS: 4, TMPD: 2}


@pytest.mark.parametrize("method", methods())
def test_what_every_method_keeps(method):
    """Consistent and detached predictions, of each row alone, at scalar levels and at levels of rows; and its count."""
    prior, operator = MixtureDenoiser(torch.eye(4, 16), torch.full((4,), 0.5), torch.full((4,), 0.25)), AveragePool(2)
    operator.bind((1, 4, 4))

    def denoise(x, level):
        return Prediction(*(part.reshape(x.shape) for part in prior(x.flatten(1), level)[:2]))

    noise, tally, path = Noise(0, torch.arange(3)), Tally(), VPLinear()
    x, y = noise.normal((1, 4, 4)), noise.normal((1, 2, 2))
    given = method.wrap(denoise, operator, y, 0.1, tally)
    level = path.level(torch.tensor(0.4, dtype=F64))
    x0, eps, _, renoise, _ = given(x.requires_grad_(), level)
    assert tally.counts.get("gradient_evaluations", 0) == 3 * method.differentiates * SEVERAL.get(type(method), 1)
    assert (x0.requires_grad, eps.requires_grad, x.grad) == (False, False, None)
    assert (renoise is not None) == method.renoises
    assert x0.dtype == eps.dtype == torch.float32
    assert not torch.allclose(x0, denoise(x, level).x0)
    torch.testing.assert_close(float(level.alpha) * x0 + float(level.sigma) * eps, x.detach(), rtol=1e-5, atol=1e-5)
    alone = method.wrap(denoise, operator, y[1:2], 0.1)(x[1:2], level)
    torch.testing.assert_close(alone.x0, x0[1:2], rtol=1e-5, atol=1e-5)
    ends = Level(
        torch.tensor([0.4, 0.4, 1.0]),
        *(
            torch.tensor([float(v), float(v), end])
            for v, end in zip((level.alpha, level.sigma), (0.0, 1.0), strict=True)
        ),
    )
    by_row = given(x, ends)
    torch.testing.assert_close(by_row.x0[:2], x0[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_row.x0[2:], denoise(x, ends).x0[2:])
    torch.testing.assert_close(by_row.eps[2:], denoise(x, ends).eps[2:])
    pure = Level(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0))
    torch.testing.assert_close(given(x, pure).x0, denoise(x, pure).x0)


def test_measurements_without_noise_are_met_by_the_prediction():
    """PiGDM's V and DiffPIR's have no part in A^+ r then."""
    level = VPLinear().level(torch.tensor(0.1, dtype=F64))
    x = Noise(0, torch.arange(3)).normal((4,), F64)
    found = [method.wrap(PRIOR, OPERATOR, Y[None], 0.0)(x, level).x0 for method in (DiffPIR(), DDNM())]
    torch.testing.assert_close(OPERATOR(found[0]), Y.expand(3, -1))
    torch.testing.assert_close(*found)
    exact = GaussianDenoiser(*posterior(Y, 0.0))
    torch.testing.assert_close(MMPS(2).wrap(PRIOR, OPERATOR, Y[None], 0.0)(x, level).x0, exact(x, level).x0)


def test_reconstruction_guidance_is_pigdm_of_wide_data_without_noise():
    level = VPLinear().level(torch.tensor(0.3, dtype=F64))
    x = Noise(0, torch.arange(3)).normal((4,), F64)
    pair = (ReconstructionGuidance(), PiGDMScore(data_std=1e6))
    torch.testing.assert_close(*(method.wrap(PRIOR, OPERATOR, Y[None], 0.0)(x, level).x0 for method in pair))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: DPSLikelihood().wrap(PRIOR, OPERATOR, Y[None], 0.0), "noise=0: DPSLikelihood divides by"),
        (lambda: TMPD().check(0.0), "noise=0: TMPD divides by"),
        (lambda: MMPS().wrap(PRIOR, OPERATOR, Y[None], -0.1), "noise=-0.1: .* at least 0"),
        (lambda: DDNM().check(math.nan), "noise=nan"),
        (
            lambda: MMPS().wrap(PRIOR, OPERATOR, Y[None, :1], 0.1),
            r"y: its rows have the shape \[1\], and A x has \[2\]",
        ),
        (lambda: MMPS(0), "iterations=0"),
        (lambda: MMPS(1, "lu"), "solver=lu: unknown; allowed: gmres, cg"),
        (lambda: PiGDMScore(0.0), "data_std=0.0"),
        (lambda: DPSLikelihood(-1.0), "scale=-1.0"),
        (lambda: DiffPIR(0.0), "weight=0.0"),
        (lambda: ReconstructionGuidance(math.inf), "weight=inf"),
        (
            lambda: MMPS().wrap(lambda x, level: PRIOR(x.detach(), level), OPERATOR, Y[None], 0.1)(
                torch.zeros(1, 4), VPLinear().level(torch.tensor(0.5, dtype=F64))
            ),
            "not differentiable in x",
        ),
        (
            lambda: build("sampler", "dpmpp_2m")(
                DDNM(keep_eps=True).wrap(PRIOR, OPERATOR, Y[None], 0.0), VPLinear(), (4,), Noise(0, torch.arange(1))
            ),
            "DPMSolverPP adds none; use DDIM",
        ),
    ],
)
def test_what_methods_refuse(call, said):
    with pytest.raises(ValueError, match=said):
        call()
