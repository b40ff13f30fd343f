"""Each weighting against its published form in the space in which it was published."""

import pytest
import torch
from oracles import F64

from denoiselab import parameterizations
from denoiselab.objectives import weights
from denoiselab.parameterizations import determinant
from denoiselab.schedules import EDM, DiscreteVP, Flow, VPCosine, VPLinear, betas

LEVEL = VPLinear().level(torch.linspace(1e-3, 1, 40, dtype=F64))
SNR = LEVEL.snr


def in_space(weight, parameterization, level=LEVEL):
    """The weight of the output's squared error that a weight of x0's squared error stands for."""
    return weight * (level.sigma / determinant(level, parameterization(level))).square()


def same(got, want):
    return torch.allclose(got, want, rtol=1e-10)


def test_l_simple_is_1_on_eps():
    assert torch.equal(weights.uniform(LEVEL), torch.ones_like(SNR))
    assert same(in_space(weights.snr(LEVEL), parameterizations.eps), torch.ones_like(SNR))


@pytest.mark.parametrize(
    ("space", "want"),
    [
        (parameterizations.x0, SNR.clamp_max(5)),
        (parameterizations.eps, (5 / SNR).clamp_max(1)),
        (parameterizations.v, SNR.clamp_max(5) / (SNR + 1)),
    ],
)
def test_min_snr_on_x0_eps_and_v(space, want):
    assert same(in_space(weights.min_snr(LEVEL, 5.0), space), want)


def test_soft_min_snr():
    assert same(weights.soft_min_snr(LEVEL, 4.0), 4 * SNR / (SNR + 4))


def test_truncated_snr_on_x0_and_eps():
    assert same(in_space(weights.truncated_snr(LEVEL), parameterizations.x0), SNR.clamp_min(1))
    assert same(in_space(weights.truncated_snr(LEVEL), parameterizations.eps), (1 / SNR).clamp_min(1))


def test_edm_weight_is_1_on_its_output():
    """lambda(sigma) c_out^2 = 1 (arXiv 2206.00364, table 1)."""
    level = EDM().level(torch.logspace(-2.6, 1.9, 20, dtype=F64))
    sigma, data = level.sigma, 0.5
    assert same(weights.edm(level, data), (sigma**2 + data**2) / (sigma * data) ** 2)
    assert same(in_space(weights.edm(level, data), parameterizations.edm, level), torch.ones_like(sigma))
    assert same(weights.edm(LEVEL, data), weights.unit(LEVEL, parameterizations.edm))


@pytest.mark.parametrize("space", [parameterizations.v, parameterizations.velocity, parameterizations.eps])
def test_unit_is_1_in_its_space(space):
    level = Flow().level(torch.linspace(0.01, 0.99, 20, dtype=F64))
    assert same(in_space(weights.unit(level, space), space, level), torch.ones_like(level.t))


def test_flow_matching_on_x0():
    """On straight paths v = eps - x0 = (x - x0) / t, so |v_hat - v|^2 = |x0_hat - x0|^2 / t^2."""
    level = Flow().level(torch.linspace(0.01, 0.99, 20, dtype=F64))
    assert same(weights.unit(level, parameterizations.velocity), level.t**-2)


@pytest.mark.parametrize("schedule", [VPLinear(), VPCosine(), EDM()])
def test_likelihood_is_half_g2_on_the_score_and_vdms_snr_slope_on_x0(schedule):
    level = schedule.level(torch.linspace(schedule.t_min, schedule.t_max, 40, dtype=F64))
    g2 = schedule.drift_diffusion(level.t)[1]
    assert same(in_space(weights.likelihood(level), parameterizations.score, level), g2 / 2)
    t = level.t.clone().requires_grad_()
    slope = torch.autograd.grad(schedule.level(t).snr.sum(), t)[0]
    assert torch.allclose(weights.likelihood(level), -slope / 2, rtol=1e-8)


@pytest.mark.parametrize("schedule", [Flow(), DiscreteVP(betas.linear(1000), zero_terminal_snr=True)])
def test_pure_noise_has_a_weight(schedule):
    """Where alpha is 0 the drift is infinite; d snr / dt, and with it the likelihood's weight, is 0."""
    level = schedule.level(torch.tensor([1.0 - 1e-9, 1.0], dtype=F64))
    assert level.alpha[1] == 0
    for weighting in (weights.likelihood, weights.sigmoid, weights.snr, weights.min_snr, weights.soft_min_snr):
        near, at = weighting(level)
        assert at == 0
        assert near < 1e-4
    assert weights.truncated_snr(level)[1] == 1
    assert weights.edm(level, 0.5)[1] == 4


def test_sigmoid_of_vdm():
    """sigmoid(b - log snr) (-d log snr / dt) / 2 on eps (arXiv 2303.00848, eq. 10 and section 5)."""
    t = LEVEL.t.clone().requires_grad_()
    slope = torch.autograd.grad(VPLinear().level(t).snr.log().sum(), t)[0]
    want = torch.sigmoid(2 - SNR.log()) * -slope / 2
    assert torch.allclose(in_space(weights.sigmoid(LEVEL, 2.0), parameterizations.eps), want, rtol=1e-8)


def test_p2_on_eps():
    assert same(in_space(weights.p2(LEVEL, 0.5, 1.0), parameterizations.eps), (1 + SNR) ** -0.5)


@pytest.mark.parametrize("power", [0.0, 2.0, 3.0])
def test_annealed_on_the_score(power):
    assert same(in_space(weights.annealed(LEVEL, power), parameterizations.score), LEVEL.sigma**power / 2)


def test_discrete_bound_with_fixed_variance_is_the_difference_of_snrs():
    """DDPM's beta^2 / (2 var alpha (1 - abar)) on eps is (snr_s - snr_t) / 2 on x0: a link between two conventions."""
    from denoiselab.variances import posterior_variances

    beta = betas.linear(100, per=100, start=1e-3, end=0.2)
    level = DiscreteVP(beta).nodes()
    there = level.path.previous(level)
    bar = level.alpha.square()
    variance = posterior_variances(level, there)[0]
    published = beta**2 / (2 * variance * (1 - beta) * (1 - bar))
    assert torch.allclose(published[1:], in_space((there.snr - level.snr)[1:] / 2, parameterizations.eps, _tail(level)))


def _tail(level):
    from denoiselab.schedules import Level

    return Level(level.t[1:], level.alpha[1:], level.sigma[1:], level.path)
