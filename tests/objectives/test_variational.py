"""The variational bounds against closed forms, each other, and the entropy of discretised data."""

import math

import pytest
import torch
from exact import Exact, exact, noise, normal, z_score
from oracles import F64

from denoiselab import parameterizations, variances
from denoiselab.analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.objectives import ContinuousBound, DenoisingObjective, Hybrid, SohlDickstein, VariationalBound, weights
from denoiselab.objectives.decoders import Categorical, ContinuousGaussian, DiscretisedGaussian
from denoiselab.objectives.level_distributions import LossHistory, UniformSteps, UniformTime
from denoiselab.objectives.uniforms import LowDiscrepancy
from denoiselab.schedules import DiscreteVP, LearnedLogSNR, VPLinear, betas
from denoiselab.schedules.base import like

LOG2 = math.log(2)


def chain(steps=40):
    return DiscreteVP(betas.linear(steps, 5e-3, 0.4, per=steps))


def unit_mixture():
    """A skewed mixture of mean 0 and variance 1."""
    means, stds, w = torch.tensor([-0.8, 1.2], dtype=F64), torch.tensor([0.2, 0.2], dtype=F64), [0.6, 0.4]
    w = torch.tensor(w, dtype=F64)
    stds = stds * ((1 - (w * means.square()).sum()) / (w * stds.square()).sum()).sqrt()
    oracle = MixtureDenoiser(means[:, None], stds, w)
    n = 20_000
    component = torch.multinomial(w, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return oracle, (means[component] + stds[component] * normal(n)[:, 0])[:, None]


@pytest.mark.parametrize("variance", [variances.FixedSmall(), variances.FixedLarge()])
def test_divergences_are_those_of_ddpm(variance):
    """Against the formulas of the source, from betas, for a denoiser that predicts eps = 0.3."""

    class Constant(torch.nn.Module):
        def forward(self, x, label, cond=None):
            return torch.full_like(x, 0.3)

    schedule, beta = chain(), betas.linear(40, 5e-3, 0.4, per=40)
    denoiser = Denoiser(Constant(), schedule, parameterizations.eps, ScaledTime(1.0), variance=variance)
    x0 = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    got = VariationalBound(ContinuousGaussian(), UniformSteps()).evaluate(denoiser, x0, noise(5))
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat((torch.ones(1, dtype=F64), alpha_bar[:-1]))
    posterior = beta * (1 - before) / (1 - alpha_bar)
    source = noise(5)
    for t in range(40):
        eps = source.like(x0)
        x = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps
        predicted = (x - (1 - alpha_bar[t]).sqrt() * 0.3) / alpha_bar[t].sqrt()

        def mean(start, x=x, t=t):
            first = before[t].sqrt() * beta[t] / (1 - alpha_bar[t])
            second = (1 - beta[t]).sqrt() * (1 - before[t]) / (1 - alpha_bar[t])
            return first * start + second * x

        small = posterior[max(t, 1)]
        large = beta[t] if t else posterior[1]
        p = torch.distributions.Normal(
            mean(predicted), (small if isinstance(variance, variances.FixedSmall) else large).sqrt()
        )
        if t:
            q = torch.distributions.Normal(mean(x0), small.sqrt())
            want = torch.distributions.kl_divergence(q, p)
        else:
            want = -p.log_prob(x0)
        assert torch.allclose(got.terms[t], want[:, 0] / LOG2, rtol=1e-9, atol=1e-12), t
    last = torch.distributions.Normal(alpha_bar[-1].sqrt() * x0, (1 - alpha_bar[-1]).sqrt())
    prior = torch.distributions.kl_divergence(last, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(got.prior, prior[:, 0] / LOG2, rtol=1e-9)
    assert torch.allclose(got.total, got.prior + got.terms.sum(0))


@pytest.mark.parametrize(
    "objective",
    [VariationalBound(ContinuousGaussian(), UniformSteps()), SohlDickstein(UniformSteps())],
    ids=["ho", "sohl_dickstein"],
)
def test_the_training_loss_estimates_the_whole_bound(objective):
    oracle, x0 = unit_mixture()
    denoiser = exact(oracle, chain(8), variances.FixedLarge())
    whole = objective.evaluate(denoiser, x0, noise(len(x0), 1)).total
    z = z_score(objective(denoiser, x0, noise(len(x0))).double() - whole)
    assert abs(z) < 4, z


def test_the_bound_of_the_exact_chain_is_the_entropy():
    """Unit-variance Gaussian data: fixed-large is the true reverse variance in every step but the decoder's."""
    n, schedule = 20_000, chain(20)
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    x0 = normal(n)
    bound = VariationalBound(ContinuousGaussian(), UniformSteps())
    got = bound.evaluate(exact(oracle, schedule, variances.FixedLarge()), x0, noise(n))
    first, second = schedule.nodes().unbind()[:2]
    used = variances.posterior_variances(second, first)[0]
    ratio = first.sigma.square() / used
    gap = (ratio - 1 - ratio.log()) / 2
    entropy = (math.log(2 * math.pi) + 1) / 2
    z = z_score(got.total, (entropy + float(gap)) / LOG2)
    assert float(gap) > 1e-3
    assert abs(z) < 4, z


def test_the_two_bounds_agree_on_data_of_unit_variance():
    """The steps t >= 2 are one function; the ends agree in expectation if the decoder is the forward step."""
    oracle, x0 = unit_mixture()
    schedule = chain(12)
    denoiser = exact(oracle, schedule, variances.FixedSmall())
    ho = VariationalBound(ContinuousGaussian(), UniformSteps()).evaluate(denoiser, x0, noise(len(x0)))
    sohl = SohlDickstein(UniformSteps()).evaluate(denoiser, x0, noise(len(x0)))
    assert torch.equal(ho.terms[1:], sohl.terms[1:])
    assert (sohl.terms[0] == 0).all()
    first = schedule.nodes().unbind()[0]
    x1 = first.alpha * x0 + first.sigma * noise(len(x0), 5).like(x0)
    decoded = -torch.distributions.Normal(first.alpha * x1, first.sigma).log_prob(x0)[:, 0] / LOG2
    z = z_score(sohl.prior - ho.prior - decoded)
    assert abs(z) < 4, z


def test_where_the_two_bounds_differ():
    """Data of variance s^2: the entropies miss alpha_T^2 (s^2 - 1) / 2 of the prior and the same of the decoder."""
    n, s2, schedule = 40_000, 0.25, chain(12)
    x0 = s2**0.5 * normal(n)
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), s2 * torch.eye(1, dtype=F64))
    denoiser = exact(oracle, schedule, variances.FixedSmall())
    ho = VariationalBound(ContinuousGaussian(), UniformSteps()).evaluate(denoiser, x0, noise(n))
    sohl = SohlDickstein(UniformSteps()).evaluate(denoiser, x0, noise(n))
    first, last = schedule.nodes().unbind()[0], schedule.nodes().unbind()[-1]
    x1 = first.alpha * x0 + first.sigma * noise(n, 5).like(x0)
    decoded = -torch.distributions.Normal(first.alpha * x1, first.sigma).log_prob(x0)[:, 0] / LOG2
    # In nats: E log pi(x0) - E log pi(x1) = (1 - alpha_1^2)(1 - s^2) / 2, and the prior's own (1 - s^2) alpha_T^2 / 2.
    missing = (1 - s2) * ((1 - first.alpha.square()) + last.alpha.square()) / 2 / LOG2
    z = z_score(sohl.prior - ho.prior - decoded, float(missing))
    assert abs(z) < 4, z


def test_sohl_dickstein_null_model():
    x0 = normal(50, 3)
    want = -torch.distributions.Normal(0.0, 1.0).log_prob(x0).mean(1) / LOG2
    assert torch.allclose(SohlDickstein.null(x0), want)


def discretised_gaussian(mean=0.1, std=0.35):
    """The 256 byte values in [-1, 1] and their probabilities; the entropy in bits."""
    values = torch.linspace(-1, 1, 256, dtype=F64)[:, None]
    p = DiscretisedGaussian(256)(values, torch.full_like(values, mean), torch.tensor(2 * math.log(std), dtype=F64))
    p = p.exp()[:, 0]
    return values, p, float(-(p * p.log2()).sum())


class WithBeta(torch.nn.Module):
    """Exact eps, and the output that makes `Learned` the forward variance in every step, the last too."""

    def __init__(self, oracle, schedule):
        super().__init__()
        self.exact = Exact(oracle, schedule)

    def forward(self, x, label, cond=None):
        return torch.cat((self.exact(x, label), torch.zeros_like(x)), 1)


def test_bits_per_dim_of_the_exact_denoiser_is_the_entropy():
    """DDPM's chain of 1000 steps and 256 bins lies above the entropy by less than 1 %."""
    values, p, entropy = discretised_gaussian()
    schedule = DiscreteVP(betas.linear(1000))
    bound = VariationalBound(DiscretisedGaussian(256), UniformSteps())
    network = WithBeta(EmpiricalDenoiser(values, p), schedule)
    denoiser = Denoiser(network, schedule, parameterizations.eps, ScaledTime(1.0), variance=variances.Learned())
    whole = bound.evaluate(denoiser, values.repeat(4, 1), noise(1024)).total
    bits = float((p.repeat(4) / 4 * whole).sum())
    assert entropy < bits < 1.01 * entropy, (bits, entropy)


def test_bits_per_dim_of_the_continuous_bound_is_the_entropy():
    values, p, entropy = discretised_gaussian()
    n = 60_000
    x0 = values[torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(0))]
    objective = ContinuousBound(Categorical(256), LowDiscrepancy(n))
    with torch.no_grad():
        bits = objective(exact(EmpiricalDenoiser(values, p), LearnedLogSNR(width=8)), x0, noise(n)).double()
    error = float(bits.std() / n**0.5)
    assert error < 0.01 * entropy
    assert abs(float(bits.mean()) - entropy) < 4 * error, (float(bits.mean()), entropy, error)


def test_continuous_diffusion_loss_of_a_gaussian():
    """-1/2 int snr' E|x0 - x0_hat|^2 dt = log((1 + snr_max s^2) / (1 + snr_min s^2)) / 2 for data N(0, s^2)."""
    n, s2, schedule = 40_000, 0.25, VPLinear()
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), s2 * torch.eye(1, dtype=F64))
    x0 = s2**0.5 * normal(n)
    first, last = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=F64)).unbind()
    diffusion = ((1 + first.snr * s2) / (1 + last.snr * s2)).log() / 2
    reconstruction = (math.log(2 * math.pi) + 1) / 2 + first.rho.log()
    prior = (last.alpha.square() * s2 + last.sigma.square() - 1) / 2 - last.sigma.log()
    want = float((diffusion + reconstruction + prior) / LOG2)
    loss = ContinuousBound(ContinuousGaussian(), LowDiscrepancy(n))(exact(oracle, schedule), x0, noise(n)).double()
    z = z_score(loss, want)
    assert abs(z) < 4, (z, float(loss.mean()), want)


class TwoHeads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.variance = torch.nn.Parameter(torch.tensor(0.2)), torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x, label, cond=None):
        return torch.cat((self.mean * x, self.variance * torch.ones_like(x)), 1)


def test_hybrid_trains_the_variance_by_the_bound_and_the_mean_by_l_simple():
    network, schedule = TwoHeads(), chain()
    denoiser = Denoiser(network, schedule, parameterizations.eps, ScaledTime(), variance=variances.LearnedRange())
    simple = DenoisingObjective(weights.snr, UniformSteps())
    bound = VariationalBound(ContinuousGaussian(), UniformSteps())
    x0 = normal(64).float()

    def gradients(objective):
        network.zero_grad()
        objective(denoiser, x0, noise(64)).mean().backward()
        return network.mean.grad.clone(), None if network.variance.grad is None else network.variance.grad.clone()

    both, l_simple, l_vlb = gradients(Hybrid(simple, bound, 0.001)), gradients(simple), gradients(bound)
    assert torch.allclose(both[0], l_simple[0], rtol=1e-5)
    assert l_simple[1] == 0
    assert torch.allclose(both[1], 0.001 * l_vlb[1], rtol=1e-5)
    assert l_vlb[1] != 0


def test_a_learned_variance_is_best_at_the_true_one():
    """Unit-variance Gaussian data: the bound's gradient in the log-variance is zero at fixed-large (output 1)."""
    n, schedule = 20_000, chain(20)
    oracle = GaussianDenoiser(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))

    class Network(torch.nn.Module):
        raw = torch.tensor(1.0, dtype=F64)

        def forward(self, x, label, cond=None):
            return torch.cat((oracle(x, schedule.level(label)).eps, self.raw * torch.ones_like(x)), 1)

    network = Network()
    denoiser = Denoiser(network, schedule, parameterizations.eps, ScaledTime(1.0), variance=variances.LearnedRange())
    bound = SohlDickstein(UniformSteps())
    x0, h = normal(n), 1e-3
    losses = []
    for raw in (1 + h, 1 - h):
        network.raw = torch.tensor(raw, dtype=F64)
        losses.append(bound.evaluate(denoiser, x0, noise(n)).total)
    z = z_score((losses[0] - losses[1]) / (2 * h))
    assert abs(z) < 4, z


@pytest.mark.parametrize(
    ("objective", "variance", "words"),
    [
        (SohlDickstein(UniformSteps()), None, "variance=none"),
        (SohlDickstein(LossHistory(7)), variances.FixedSmall(), "steps=7"),
        (
            Hybrid(
                DenoisingObjective(weights.snr, UniformTime()), VariationalBound(ContinuousGaussian(), UniformSteps())
            ),
            variances.FixedSmall(),
            "learned_range",
        ),
        (DenoisingObjective(weights.snr, UniformTime()), variances.Learned(), "does not train a learned variance"),
    ],
)
def test_refuses_a_denoiser_it_cannot_train(objective, variance, words):
    denoiser = Denoiser(TwoHeads(), chain(), parameterizations.eps, ScaledTime(), variance=variance)
    with pytest.raises(ValueError, match=words):
        objective.check(denoiser)


def test_a_continuous_schedule_needs_a_number_of_steps():
    denoiser = Denoiser(TwoHeads(), VPLinear(), parameterizations.eps, ScaledTime(), variance=variances.FixedSmall())
    with pytest.raises(ValueError, match="VPLinear is continuous"):
        SohlDickstein(UniformSteps()).check(denoiser)
    SohlDickstein(UniformSteps(steps=10)).check(denoiser)


def test_like_is_used_for_levels_of_a_batch():
    """A level for each sample gives the terms that scalar levels give."""
    oracle, x0 = unit_mixture()
    x0, schedule = x0[:12], chain(12)
    denoiser = exact(oracle, schedule, variances.FixedSmall())
    bound = VariationalBound(ContinuousGaussian(), UniformSteps())
    level = schedule.nodes()
    x = like(level.alpha, x0) * x0 + like(level.sigma, x0) * 0.5
    whole = bound.term(denoiser(x, level), x0, level)
    for i, here in enumerate(level.unbind()):
        one = bound.term(denoiser(x[i : i + 1], here), x0[i : i + 1], here)
        assert torch.allclose(whole[i], one[0], rtol=1e-12)
