"""Likelihoods against exact densities and the entropies of known distributions."""

import math

import pytest
import torch
from configurations import build, names
from exact import noise, normal, z_score
from oracles import F64

from denoiselab import parameterizations, schedules, variances
from denoiselab.analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from denoiselab.codecs import Identity, Logit
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.data.points import PointSet
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.likelihood import (
    ChainBound,
    ContinuousTimeBound,
    Draws,
    Estimate,
    ExactTrace,
    FlowLikelihood,
    Hutchinson,
    Likelihood,
    measure,
)
from denoiselab.likelihood.bits_per_dim import rate_distortion
from denoiselab.likelihood.dequantisation import Decoded, Real, TruncatedNormal, Uniform, Variational
from denoiselab.model import Model
from denoiselab.objectives import projections
from denoiselab.objectives.decoders import Categorical, ContinuousGaussian, DiscretisedGaussian
from denoiselab.schedules import betas

LOG2 = math.log(2)
FROM_NOISE = {"flow": schedules.Flow(), "cosine": schedules.VPCosine(t_max=1.0)}
TRUNCATED = {
    "vp": schedules.VPLinear(),
    "sub_vp": schedules.SubVP(),
    "edm": schedules.EDM(),
    "discrete": schedules.DiscreteVP(betas.linear(1000)),
}


def ends(schedule):
    return schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=F64)).unbind()


def mixture():
    """Two components in the plane, of unequal width."""
    means, stds = torch.tensor([[-1.0, 0.3], [0.8, -0.2]], dtype=F64), torch.tensor([0.3, 0.5], dtype=F64)
    return MixtureDenoiser(means, stds, torch.tensor([0.4, 0.6], dtype=F64))


def draw(oracle, n):
    which = torch.multinomial(oracle.weights, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return oracle.means[which] + oracle.stds[which, None] * normal(n, oracle.means.shape[1])


def log_density(oracle, schedule, y):
    """Of y = x / alpha at the least noisy level."""
    first = ends(schedule)[0]
    return oracle.log_density(first.alpha * y, first) + y.shape[1] * first.alpha.log()


def flow(trace=None, dequantisation=None, tolerance=1e-5):
    return FlowLikelihood(dequantisation or Real(), trace or ExactTrace(), tolerance, tolerance)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", FROM_NOISE)
def test_the_ode_has_the_exact_density_at_every_point(name, tolerance):
    schedule, oracle = FROM_NOISE[name], mixture()
    y = draw(oracle, 30)
    got = sum(flow(tolerance=tolerance).log_density(oracle, schedule, y, noise(30), F64))
    assert (got - log_density(oracle, schedule, y)).abs().max() < 30 * tolerance


@pytest.mark.parametrize("name", TRUNCATED)
def test_the_map_to_noise_has_the_exact_volume(name):
    """Where the last marginal is not the prior, the rest of the log-density must still be exact."""
    schedule, oracle = TRUNCATED[name], mixture()
    first, last = ends(schedule)
    y = draw(oracle, 30)
    end = oracle.flow(first.alpha * y, first, last)
    norm = torch.hypot(last.alpha, last.sigma)
    want = log_density(oracle, schedule, y) - oracle.log_density(end, last) - 2 * norm.log()
    prior, volume = flow(tolerance=1e-7).log_density(oracle, schedule, y, noise(30), F64)
    assert (volume - want).abs().max() < 30 * 1e-7
    gaussian = -((end / norm).square() + math.log(2 * math.pi)).sum(1) / 2
    assert (prior - gaussian).abs().max() < 30 * 1e-7


@pytest.mark.parametrize("name", names("schedule"))
def test_every_schedule_measures_the_same_gaussian(name):
    """The exact map of a Gaussian is known between any two levels, pure noise too; and VDM's bound is its entropy."""
    schedule = build("schedule", name, *(["width=8"] if name == "learned" else [])).requires_grad_(False)
    first, last = ends(schedule)
    root = torch.tensor([[0.5, 0.0], [0.2, 0.4]], dtype=F64)
    oracle = GaussianDenoiser(torch.tensor([0.1, -0.2], dtype=F64), root @ root.T)
    y = oracle.mean + normal(400, 2) @ root.T
    norm = torch.hypot(last.alpha, last.sigma)
    end = oracle.flow(first.alpha * y[:20], first, last)
    want = log_density(oracle, schedule, y[:20]) - oracle.log_density(end, last) - 2 * norm.log()
    _, volume = flow().log_density(oracle, schedule, y[:20], noise(20), F64)
    assert (volume - want).abs().max() < 1e-3
    # Given y, the density of a model with the same noise once more; what the prior is off by is in it.
    twice = GaussianDenoiser(oracle.mean, root @ root.T + float(first.rho) ** 2 * torch.eye(2, dtype=F64))
    result = of(ContinuousTimeBound(ContinuousGaussian(), 16), oracle, schedule, y)
    total = (last.alpha.square() * (root @ root.T) + last.sigma.square() * torch.eye(2)) / norm.square()
    shift = last.alpha * oracle.mean / norm
    prior = (total.trace() - 2 - total.logdet() + shift.square().sum()) / 2
    expected = (-log_density(twice, schedule, y).mean() + prior) / (2 * LOG2)
    assert result.total.value == pytest.approx(float(expected), abs=4 * result.total.standard_error + 1e-3)


@pytest.mark.parametrize("projection", [projections.rademacher, projections.gaussian, projections.sphere])
def test_hutchinson_is_unbiased(projection):
    """One point of three dimensions, many probes."""
    oracle = MixtureDenoiser(
        torch.tensor([[-1.0, 0.3, 0.5], [0.8, -0.2, 0.0]], dtype=F64), torch.tensor([0.3, 0.5], dtype=F64),
        torch.tensor([0.4, 0.6], dtype=F64),
    )  # fmt: skip
    schedule, n = schedules.Flow(), 1500
    y = torch.tensor([[0.1, 0.4, -0.3]], dtype=F64)
    want = sum(flow(tolerance=1e-7).log_density(oracle, schedule, y, noise(1), F64))
    spread = []
    for probes in (1, 4):
        method = flow(Hutchinson(projection, probes), tolerance=1e-4)
        got = sum(method.log_density(oracle, schedule, y.expand(n, 3), noise(n), F64))
        assert abs(z_score(got, float(want))) < 4
        spread.append(float(got.std()))
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.15)


class Network(torch.nn.Module):
    """Predicts x0 as a closed-form denoiser does, of images too; its weight tells the device."""

    def __init__(self, oracle, schedule):
        super().__init__()
        self.oracle, self.schedule, self.weight = oracle, schedule, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, label, cond=None):
        return self.oracle(x.flatten(1), self.schedule.level(label)).x0.view_as(x)


def model(oracle, schedule, variance=None):
    network = Network(oracle, schedule)
    return Denoiser(network, schedule, parameterizations.x0, ScaledTime(1.0), variance=variance)


def of(method, oracle, schedule, data, variance=None, n=None, batch_size=500, seed=0, repeats=1):
    points = PointSet(data, torch.zeros(len(data), dtype=torch.int64))
    whole = Model(model(oracle, schedule, variance), Unconditional(), Identity(data.shape[1:]))
    method.fit(whole, points, seed, lambda size: None)
    return measure(method, whole, points, Draws(n or len(data), batch_size, seed, repeats))


def sigmas(result, expected):
    return (result.total.value - expected) / result.total.standard_error


RADEMACHER = Hutchinson(projections.rademacher)
REAL = {
    "ode": flow(RADEMACHER),
    "ode_decoded": flow(RADEMACHER, Decoded(ContinuousGaussian())),
    "continuous": ContinuousTimeBound(ContinuousGaussian(), 16),
}


@pytest.mark.parametrize("method", REAL)
@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_the_likelihood_of_a_gaussian_is_its_entropy(method, name):
    """In three dimensions; the noise of the least noisy level changes it by less than a tenth of the error."""
    root = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.3, 0.1, 0.6]], dtype=F64)
    oracle = GaussianDenoiser(torch.tensor([0.2, 0.0, -0.1], dtype=F64), root @ root.T)
    data = oracle.mean + normal(2000, 3) @ root.T
    entropy = float((3 * (math.log(2 * math.pi) + 1) / 2 + root.diagonal().log().sum()) / (3 * LOG2))
    result = of(REAL[method], oracle, {**TRUNCATED, **FROM_NOISE}[name], data)
    assert result.total.standard_error < 0.05
    assert abs(sigmas(result, entropy)) < 3, (result, entropy)


def test_bounds_are_no_less_than_the_ode_on_the_same_model():
    """A mixture, whose reverse steps are no Gaussians: a short chain is far off, a long one and VDM's bound near."""
    oracle, schedule = mixture(), schedules.VPLinear()
    data = draw(oracle, 1000)
    ode = of(flow(RADEMACHER, Decoded(ContinuousGaussian())), oracle, schedule, data).total
    chain = [
        of(ChainBound(ContinuousGaussian(), variances.FixedSmall(), steps), oracle, schedule, data).total
        for steps in (30, 300)
    ]
    continuous = of(ContinuousTimeBound(ContinuousGaussian(), 32), oracle, schedule, data).total
    assert chain[0].value > chain[1].value + 0.1 > ode.value + 0.1
    error = math.hypot(continuous.standard_error, ode.standard_error)
    assert -3 * error < continuous.value - ode.value < 3 * error
    assert chain[1].value > continuous.value


def discretised(std):
    """The 256 byte values in [-1, 1], their probabilities under N(0, std^2), and the entropy in bits."""
    values = torch.linspace(-1, 1, 256, dtype=F64)[:, None]
    p = DiscretisedGaussian(256)(values, torch.zeros_like(values), torch.tensor(2 * math.log(std), dtype=F64))
    p = p.exp()[:, 0]
    p = p / p.sum()
    return values, p, float(-torch.special.xlogy(p, p).sum() / LOG2)


def some(values, p, n):
    return values[torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("dequantisation", [Uniform(), TruncatedNormal(std=1.0)], ids=["uniform", "truncated"])
def test_dequantised_bytes_of_a_gaussian_have_its_entropy(dequantisation):
    """The model knows the density, not the bytes: the gap is of the order (bin / std)^2."""
    values, p, entropy = discretised(0.2)
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.full((1, 1), 0.04, dtype=F64))
    result = of(flow(dequantisation=dequantisation), oracle, schedules.EDM(), some(values, p, 2000))
    assert result.total.standard_error < 0.03
    assert abs(sigmas(result, entropy)) < 3, (result, entropy)


def test_a_model_that_knows_the_bytes():
    """Noise of half a bin's half: the model's own noise costs nothing; uniform numbers cost their divergence."""
    std, rho = 0.05, 0.25 / 255
    values, p, entropy = discretised(std)
    kept = p > 1e-12
    oracle, schedule = EmpiricalDenoiser(values[kept], p[kept] / p[kept].sum()), schedules.EDM(rho, 80.0)
    data = some(values, p, 500)
    cut = of(flow(dequantisation=TruncatedNormal()), oracle, schedule, data)
    assert abs(sigmas(cut, entropy)) < 3, (cut, entropy)
    for decoder in (DiscretisedGaussian(), Categorical()):
        decoded = of(flow(dequantisation=Decoded(decoder)), oracle, schedule, data)
        assert abs(sigmas(decoded, entropy)) < 3, (decoded, entropy)
    # E over the bin of log uniform - log normal, half = 4 rho.
    half = 4 * rho
    gap = -math.log(2 * half) + math.log(rho * math.sqrt(2 * math.pi)) + half**2 / (6 * rho**2)
    uniform = of(flow(dequantisation=Uniform()), oracle, schedule, data)
    assert gap / LOG2 > 1
    assert abs(sigmas(uniform, entropy + gap / LOG2)) < 3, (uniform, gap / LOG2)


def test_a_trained_dequantisation_finds_the_best_of_its_family():
    """One pixel whose best numbers are a truncated normal's: what is left is the logistic family's divergence."""
    rho, half = 1 / 255 / 2.5, 1 / 255
    values, p, _ = discretised(0.02)
    kept = p > 1e-12
    oracle, schedule = EmpiricalDenoiser(values[kept], p[kept] / p[kept].sum()), schedules.EDM(rho, 80.0)
    images = some(values, p, 300)[:, None, :, None].float()

    def value(dequantisation):
        return of(flow(dequantisation=dequantisation), oracle, schedule, images).total.value

    uniform, best = value(Uniform()), value(TruncatedNormal())
    start = value(Variational(width=8, steps=1, batch_size=4, lr=1e-9))
    assert start == pytest.approx(uniform, abs=1e-3)
    u = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    divergences = []
    for scale in torch.linspace(0.2, 1.0, 161, dtype=F64):
        z = scale * u.logit()
        log_q = (u * (1 - u) / (scale * 2 * half * z.sigmoid() * (-z).sigmoid())).log()
        log_p = -(half * (z / 2).tanh() / rho).square() / 2 - math.log(
            rho * math.sqrt(2 * math.pi) * math.erf(2.5 / math.sqrt(2))
        )
        divergences.append(float((log_q - log_p).mean()) / LOG2)
    trained = value(Variational(width=8, steps=300, batch_size=128, lr=1e-2))
    assert uniform - best > 0.3
    assert trained - best == pytest.approx(min(divergences), abs=0.02)


@pytest.mark.parametrize("dequantisation", [Uniform(), TruncatedNormal(std=0.002), "trained"])
def test_densities_of_dequantisation_are_normalised(dequantisation):
    """E 1 / q is the volume of the bin, and all numbers lie in it."""
    x0 = torch.zeros(40_000, 1, 1, 1)
    if dequantisation == "trained":
        dequantisation = Variational(width=4, steps=1, batch_size=1)
        dequantisation.fit(lambda y, index, noise: y.flatten(1).mean(1), x0[:10].__getitem__, 10, 0, lambda size: None)
        head = dequantisation.network[-1]
        torch.nn.init.constant_(head.bias, 0.4)
    with torch.no_grad():
        y, log_q = dequantisation(x0, 0.1, noise(len(x0)))
    assert y.abs().max() <= 1 / 255
    volume = 255 / 2 * (-log_q).exp()
    assert abs(volume.mean() - 1) < 4 * volume.std() / 200 + 1e-9


def test_an_estimate_does_not_depend_on_its_batch():
    oracle, schedule, data = mixture(), schedules.VPLinear(), draw(mixture(), 40)
    for method in (flow(RADEMACHER), ContinuousTimeBound(ContinuousGaussian(), 3)):
        small, large, other = (
            of(method, oracle, schedule, data, n=23, batch_size=size, seed=seed).total
            for size, seed in ((7, 5), (23, 5), (23, 6))
        )
        assert small == pytest.approx(large, abs=1e-12)
        assert abs(other.value - large.value) > 1e-3


def test_a_density_of_logits_is_one_of_images_at_every_point():
    """A mixture over two logits; the change of variables written out."""
    oracle, schedule, codec = mixture(), schedules.Flow(), Logit((1, 1, 2), margin=0.02, scale=0.5)
    x = (2 * torch.rand(20, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) - 1) * 256 / 255
    method = flow(dequantisation=Real(), tolerance=1e-7).through(codec)
    got = sum(method(model(oracle, schedule), x, noise(20), Unconditional().sample(torch.arange(20))).parts.values())
    p = 0.02 + 0.96 * (127.5 * (x.flatten(1) + 1) + 0.5) / 256
    slope = 0.5 * 0.96 * 127.5 / 256 / (p * (1 - p))
    want = log_density(oracle, schedule, 0.5 * (p / (1 - p)).log()) + slope.log().sum(1)
    assert (got + want / (2 * LOG2)).abs().max() < 30 * 1e-7


def gaussian_logits(mean):
    """A pixel of 1000 bytes whose logits are N(mean, 1), the model of it, and -log2 P of those bytes, by the cdf."""
    codec = Logit((1, 1, 1))
    oracle = GaussianDenoiser(torch.tensor([mean], dtype=F64), torch.eye(1, dtype=F64))
    edges = (torch.arange(257, dtype=F64) / 256).logit()
    p = torch.special.ndtr(edges - mean).diff()
    data = some(torch.linspace(-1, 1, 256, dtype=F64)[:, None, None, None], p, 1000).float()
    exact = float(-p[((data + 1) * 127.5).round().long()].log().mean() / LOG2)

    def gap(dequantisation):
        return of(flow(dequantisation=dequantisation).through(codec), oracle, schedules.EDM(), data).total.value - exact

    return gap


def test_the_bits_of_bytes_are_those_of_a_gaussian_of_their_logits():
    """Where a bin is narrow numbers cost nothing; where all lie in the darkest bins they do, and less once trained."""
    wide, dark = gaussian_logits(-2.0), gaussian_logits(-6.0)
    for dequantisation in (Uniform(), TruncatedNormal(std=1.0)):
        assert abs(wide(dequantisation)) < 0.003
    assert dark(Uniform()) > 0.15
    assert 0 < dark(Variational(width=8, steps=100, batch_size=64, lr=1e-2)) < 0.08


def test_what_is_not_of_the_data_alone_is_refused_of_latents():
    codec = Logit((1, 1, 1))
    for method, says in (
        (flow(dequantisation=TruncatedNormal()), r"dequantisation\.std=null: .* latents of Logit; give a std"),
        (flow(dequantisation=Decoded(Categorical())), r"dequantisation\.decoder: .*dequantisation=uniform"),
        (ContinuousTimeBound(Categorical()), r"decoder: it is for data, .*choose task/method=ode"),
    ):
        with pytest.raises(ValueError, match=says):
            method.through(codec)


class Watching(Likelihood):
    """Notes what it is given."""

    def __init__(self):
        self.points, self.labels = [], []

    def __call__(self, denoiser, x0, noise, cond):
        self.points.append(x0)
        self.labels.append(cond.class_label)
        return Estimate({"prior": x0[:, 0]})


def test_samples_are_given_the_conditioning_of_their_labels():
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    watching, denoiser = Watching(), model(mixture(), schedules.VPLinear())
    whole = Model(denoiser, ClassLabel(10), Identity((1,)))
    measure(watching, whole, PointSet(labels[:, None].double(), labels), Draws(7, 3, 0))
    assert torch.equal(torch.cat(watching.points)[:, 0].long(), torch.cat(watching.labels))
    assert len(torch.cat(watching.labels)) == 7


def test_standard_errors_are_those_of_repetition():
    """Over 40 draws of data and noise, within a quarter."""
    oracle, schedule = mixture(), schedules.VPLinear()
    everything, method = draw(oracle, 40 * 100), ContinuousTimeBound(ContinuousGaussian(), 4)
    totals = [of(method, oracle, schedule, data, seed=seed).total for seed, data in enumerate(everything.split(100))]
    values, errors = torch.tensor(totals, dtype=F64).unbind(1)
    assert float(errors.mean() / values.std()) == pytest.approx(1, abs=0.25)


def test_repeats_leave_the_mean_and_take_away_noise():
    oracle, schedule, data = GaussianDenoiser(torch.zeros(2), torch.eye(2)), schedules.VPLinear(), normal(400, 2)
    method = ContinuousTimeBound(ContinuousGaussian(), 1)
    one, many = (of(method, oracle, schedule, data, repeats=repeats).total for repeats in (1, 8))
    assert many.standard_error < 0.7 * one.standard_error
    assert abs(one.value - many.value) < 4 * one.standard_error


def test_the_calls_of_a_sample_are_counted(monkeypatch):
    oracle, data = mixture(), draw(mixture(), 20)
    schedule = schedules.VPLinear()
    assert of(ContinuousTimeBound(ContinuousGaussian(), 5), oracle, schedule, data).nfe == 5
    chain = ChainBound(ContinuousGaussian(), variances.FixedSmall(), 12)
    assert of(chain, oracle, schedule, data, repeats=2).nfe == 12
    rows, forward = [], Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, x, *rest: (rows.append(len(x)), forward(self, x, *rest))[1])
    assert of(flow(RADEMACHER), oracle, schedule, data).nfe == sum(rows) / 20 > 30


def test_rate_and_distortion_of_a_gaussian_chain():
    """Rates add up to the bound; the distortion at t is the posterior's standard deviation."""
    n, s, schedule = 4000, 0.5, schedules.DiscreteVP(betas.linear(20, 5e-3, 0.4, per=20))
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.full((1, 1), s * s, dtype=F64))
    method = ChainBound(ContinuousGaussian(), variances.FixedSmall())
    result = of(method, oracle, schedule, s * normal(n))
    rows = rate_distortion(result, scale=10.0)
    assert [row["t"] for row in rows] == list(range(20, 0, -1))
    assert rows[0]["rate"] == result.parts["prior"].value
    assert rows[-1]["rate"] + rows[-1]["term"] == pytest.approx(result.total.value)
    assert rows[-1]["rate"] == pytest.approx(result.parts["prior"].value + result.parts["diffusion"].value)
    for row, level in zip(rows, reversed(schedule.nodes().unbind()), strict=True):
        assert row["half_log_snr"] == pytest.approx(float(level.lam))
        posterior = s * float(level.sigma / torch.hypot(level.alpha * s, level.sigma))
        assert row["distortion"] == pytest.approx(10 * posterior, rel=0.06)
        assert row["term_standard_error"] > 0


def test_the_models_own_variance_is_used_where_it_has_one():
    oracle, schedule = mixture(), schedules.DiscreteVP(betas.linear(20, 5e-3, 0.4, per=20))
    data = draw(oracle, 50)
    small, large = variances.FixedSmall(), variances.FixedLarge()
    own = of(ChainBound(ContinuousGaussian(), small), oracle, schedule, data, variance=large).total
    assert own == of(ChainBound(ContinuousGaussian(), large), oracle, schedule, data).total
    assert own != of(ChainBound(ContinuousGaussian(), small), oracle, schedule, data).total


def test_bad_input():
    oracle, schedule = mixture(), schedules.VPLinear()
    with pytest.raises(ValueError, match="steps=null: VPLinear is continuous"):
        ChainBound(ContinuousGaussian(), variances.FixedSmall()).check(model(oracle, schedule))
    with pytest.raises(ValueError, match="n=1: it must be at least 2"):
        of(flow(), oracle, schedule, draw(oracle, 1))
    with pytest.raises(ValueError, match="rtol=1e-05, atol=1e-05: the ODE solver failed"):
        of(flow(), lambda x, level: oracle(math.nan * x, level), schedule, draw(oracle, 4))
    bound = ContinuousTimeBound(ContinuousGaussian())
    broken = draw(oracle, 4)
    broken[2] = math.nan
    with pytest.raises(ValueError, match="sample 2: its prior by ContinuousTimeBound is not finite"):
        of(bound, oracle, schedule, broken)
    for refused in (
        lambda: flow(tolerance=0.0),
        lambda: flow(tolerance=-1.0),
        lambda: Hutchinson(projections.rademacher, 0),
        lambda: ContinuousTimeBound(ContinuousGaussian(), 0),
        lambda: ChainBound(ContinuousGaussian(), variances.FixedSmall(), 1),
        lambda: ChainBound(ContinuousGaussian(), variances.FixedSmall(), 9, clip=0.0),
        lambda: Uniform(1),
        lambda: TruncatedNormal(std=0.0),
        lambda: Variational(steps=0),
        lambda: Variational(lr=0.0),
    ):
        with pytest.raises(ValueError, match=r"must be"):
            refused()
