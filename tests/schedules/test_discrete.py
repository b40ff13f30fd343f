"""Tables of betas and sigmas: against diffusers, at any length, and what they refuse."""

import mpmath as mp
import pytest
import torch
from oracles import F64

from denoiselab.schedules import DiscreteVE, DiscreteVP, Flow, Shifted, SubVP, VPCosine, betas


def theirs(**options):
    from diffusers import DDPMScheduler

    return DDPMScheduler(**options).alphas_cumprod.double()


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (betas.linear(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        (betas.linear(400, per=400), {"beta_schedule": "linear", "num_train_timesteps": 400}),
        (betas.scaled_linear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        (
            betas.scaled_linear(1000, 0.0015, 0.0195),
            {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        ),
        (betas.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (betas.cosine(50), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}),
        (betas.sigmoid(), {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02}),
    ],
)
def test_the_chain_is_that_of_diffusers(ours, options):
    level, want = DiscreteVP(ours).nodes(), theirs(**options)
    assert torch.allclose(level.alpha.square(), want, rtol=1e-4, atol=1e-9)  # a thousand float32 factors
    assert torch.allclose(level.sigma.square(), 1 - want, rtol=1e-3, atol=1e-6)


def test_zero_terminal_snr_is_that_of_diffusers():
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    level = DiscreteVP(betas.scaled_linear(), zero_terminal_snr=True).nodes()
    want = theirs(**options, rescale_betas_zero_snr=True)
    assert torch.allclose(level.alpha.square()[:-1], want[:-1], rtol=2e-3, atol=1e-7)
    assert level.alpha[-1] == 0
    assert level.sigma[-1] == 1
    plain = DiscreteVP(betas.scaled_linear()).nodes()
    assert float(level.alpha[0]) == pytest.approx(float(plain.alpha[0]), rel=1e-15)


def test_a_chain_that_ends_in_pure_noise_has_finite_derivatives_inside():
    schedule = DiscreteVP(betas.jsd(10))
    t = torch.linspace(0.9, 0.999, 20, dtype=F64)
    f, g2 = schedule.drift_diffusion(t)
    assert f.isfinite().all()
    assert (g2 > 0).all()
    assert schedule.level(torch.tensor(1.0, dtype=F64)).alpha == 0
    # Linear in alpha: f = alpha' / alpha = -1 / (1 - t).
    assert torch.allclose(f, -1 / (1 - t), rtol=1e-9)


def test_the_last_step_into_pure_noise_keeps_the_digits_of_its_start():
    """Where it starts near the data, 1 - alpha cancels: sigma^2 = 1 - (1 - beta) (1 - w)^2 in 50 digits."""
    chain = DiscreteVP(torch.tensor([1e-6, 1.0], dtype=F64))
    with mp.workdps(50):
        for t in (0.5, 0.5 + 1e-8, 0.501, 0.75, 1.0):
            alpha = mp.sqrt(1 - mp.mpf(1e-6)) * (2 - 2 * mp.mpf(t))
            sigma = mp.mpf(float(chain.sigma(torch.tensor(t, dtype=F64))))
            assert abs(sigma / mp.sqrt(1 - alpha**2) - 1) < 1e-14


def test_from_alpha_bars():
    chain = DiscreteVP(betas.cosine(20))
    bars = chain.nodes().alpha.square()
    again = DiscreteVP.from_alpha_bars(bars).nodes()
    assert torch.allclose(again.alpha, chain.nodes().alpha, rtol=1e-13)
    assert torch.allclose(again.sigma, chain.nodes().sigma, rtol=1e-11)
    for bad in ([0.9, 0.9], [0.5, 0.7], [1.0, 0.5], [0.5, 0.0, 0.0], [0.5, -0.1]):
        with pytest.raises(ValueError, match="alpha_bars"):
            DiscreteVP.from_alpha_bars(torch.tensor(bad))


@pytest.mark.parametrize("table", [betas.linear, betas.scaled_linear, betas.sigmoid, betas.warmup])
def test_a_shorter_chain_adds_the_same_noise_in_all(table):
    long, short = DiscreteVP(table(1000)).nodes(), DiscreteVP(table(250)).nodes()
    assert float(short.alpha[-1].log()) == pytest.approx(float(long.alpha[-1].log()), rel=0.06)


def test_published_tables():
    assert torch.allclose(betas.jsd(4), torch.tensor([1 / 4, 1 / 3, 1 / 2, 1], dtype=F64))
    assert torch.allclose(betas.geometric(3, 0.01, 1.0), torch.tensor([0.01, 0.1, 1], dtype=F64))
    assert torch.allclose(betas.uniform(3, 0.1, 0.5), torch.tensor([0.1, 0.3, 0.5], dtype=F64))
    warm = betas.warmup(1000, 1e-4, 0.02, 0.1)
    assert torch.allclose(warm[:100], torch.linspace(1e-4, 0.02, 100, dtype=F64))
    assert (warm[100:] == warm[99]).all()


def test_a_table_serves_two_devices_and_survives_a_rehearsal():
    with torch.device("meta"):
        schedule = DiscreteVP(betas.linear(10, per=10))
    assert schedule.nodes().alpha.device.type == "cpu"
    assert schedule.level(torch.rand(3, dtype=F64, device="meta")).alpha.device.type == "meta"
    assert schedule.level(torch.tensor(0.5, dtype=F64)).alpha.isfinite()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiscreteVP(torch.tensor([0.1, 1.2, 0.3])), "betas: number 2 is 1.2"),
        (lambda: DiscreteVP(torch.tensor([0.0, 0.1])), "betas: number 1 is 0"),
        (lambda: DiscreteVP(torch.tensor([0.1, 1.0, 0.3])), "betas: number 2 is 1"),
        (lambda: DiscreteVP(torch.tensor([0.1])), "at least 2"),
        (lambda: DiscreteVP(torch.tensor([0.1, float("nan")])), "betas: number 2 is nan"),
        (lambda: betas.linear(10), "steps=10"),
        (lambda: betas.linear(1), "steps=1"),
        (lambda: betas.linear(per=0), "per=0"),
        (lambda: betas.linear(start=-1e-4), "between 0 and 1"),
        (lambda: betas.warmup(fraction=0.0), "fraction=0.0"),
        (lambda: betas.scaled_linear(start=-0.1), "start=-0.1"),
        (lambda: betas.cosine(s=-1.0), "s=-1.0"),
        (lambda: betas.cosine(s=float("nan")), "s=nan"),
        (lambda: betas.sigmoid(span=-6.0), "span=-6.0"),
        (lambda: betas.geometric(sigma_min=1.0, sigma_max=0.1), "sigma_min=1.0 and sigma_max=0.1"),
        (lambda: DiscreteVE(torch.tensor([0.1, 0.1])), "rise strictly"),
        (lambda: DiscreteVE(torch.tensor([1.0, 0.1])), "rise strictly"),
        (lambda: DiscreteVE(torch.tensor([0.0, 0.1])), "positive"),
        (lambda: DiscreteVE(torch.tensor([0.1, float("inf")])), "finite"),
        (lambda: Shifted(SubVP(), 0.5), "base=SubVP"),
        (lambda: Shifted(VPCosine(), 0.0), "ratio=0.0"),
        (lambda: Flow(t_min=0.0), "t_min=0.0"),
        (lambda: Flow(t_max=1.1), "t_max=1.1"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
