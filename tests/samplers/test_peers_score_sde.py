"""Predictor-corrector sampling ends where Song et al.'s algorithm does, which is written out here."""

import functools

import pytest
import torch
from configurations import build
from oracles import F64, mixture
from peers import distance

from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import PredictorCorrector, Tally
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import DiscreteVE, DiscreteVP, Level
from denoiselab.schedules.betas import geometric, linear

# Samples of many dimensions: in few the corrector's ratio of norms has no bound, and rounding grows to any size.
ORACLE, X = mixture(), Noise(0, torch.arange(3)).normal((200,), F64)


def betas_of(n):
    """DDPM's of 1,000; fewer begin above a half log-SNR of -5.1 too."""
    return linear(n, end=0.02 if n == 1000 else 0.015)


@functools.cache
def chain_of(kind, n):
    return DiscreteVE(geometric(n, 0.01, 50.0)) if kind == "ve" else DiscreteVP(betas_of(n))


class Drawn(Noise):
    """The draws of one generator."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def like(self, x):
        return torch.randn(x.shape, dtype=x.dtype, generator=self.generator)


def clouds(x, level):
    """Each element a draw of the mixture."""
    return Prediction(*(part.view_as(x) for part in ORACLE(x.view(-1, 1), level)[:2]))


def score_at(level, x):
    return -clouds(x, level).eps / level.sigma


def song(kind, n, predictor, corrector, x, n_steps=1, snr=0.16, flow=False):
    """`pc_sampler` of score_sde_pytorch with `denoise`: levels n-1 to 0; norms are those of a batch of one.

    With the probability flow it draws too, and multiplies by 0: here it does not draw.
    """
    draw = functools.partial(Drawn().like, x)
    betas, sigmas = betas_of(n), geometric(n, 0.01, 50.0)
    bars = (1 - betas).log().cumsum(0).exp()
    for i in reversed(range(n)):
        alpha, sigma = (
            (bars[i].sqrt(), (1 - bars[i]).sqrt()) if kind == "vp" else (torch.tensor(1.0).double(), sigmas[i])
        )
        kept = 1 - betas[i] if kind == "vp" else 1.0

        score = functools.partial(score_at, Level(torch.tensor(i / n), alpha, sigma))
        x_mean = x
        for _ in range(n_steps if corrector else 0):
            grad, z = score(x), draw()
            if corrector == "langevin":
                size = (snr * z.norm(dim=1, keepdim=True) / grad.norm(dim=1, keepdim=True)) ** 2 * 2 * kept
            else:
                size = torch.as_tensor((snr * sigma) ** 2 * 2 * kept)
            x_mean = x + size * grad
            x = x_mean + (2 * size).sqrt() * z
        before = sigmas[i - 1] if i else 0.0
        if predictor == "reverse_diffusion":
            f, square = (kept.sqrt() * x - x, betas[i]) if kind == "vp" else (0 * x, sigma**2 - before**2)
            x_mean = x - f + square * score(x) * (0.5 if flow else 1)
            std = 0 * square if flow else square.sqrt()
        elif predictor == "ancestral":
            if kind == "vp":
                x_mean, std = (x + betas[i] * score(x)) / kept.sqrt(), betas[i].sqrt()
            else:
                square = sigma**2 - before**2
                x_mean, std = x + score(x) * square, (before**2 * square / sigma**2).sqrt()
        if predictor:
            x = x_mean + std * draw() if not flow else x_mean
        else:
            x_mean = x
    return x_mean


OWN_LAST = ["predictor.own_last=true"]
ANCESTRAL = {"ve": "0.0", "vp": "1.0"}


def cases():
    """Kind, our sampler, what the peer is given."""
    for kind in ("ve", "vp"):
        own = OWN_LAST if kind == "vp" else []
        yield kind, "predictor_corrector", own, ("reverse_diffusion", "langevin"), {}
        yield kind, "pc_annealed", own, ("reverse_diffusion", "ald"), {}
        yield kind, "corrector_only", ["corrector_steps=1"], (None, "langevin"), {}
        yield kind, "corrector_only", ["annealed=true"], (None, "ald"), {"n_steps": 2}
        yield kind, "reverse_diffusion", [o.removeprefix("predictor.") for o in own], ("reverse_diffusion", None), {}
        yield kind, "reverse_diffusion_ode", [], ("reverse_diffusion", None), {"flow": True}
        flow = ["predictor.probability_flow=true", *OWN_LAST]
        yield kind, "predictor_corrector", flow, ("reverse_diffusion", "langevin"), {"flow": True}
        yield kind, "ancestral", [f"large={ANCESTRAL[kind]}"], ("ancestral", None), {}
        two = ["corrector_steps=2", "snr=0.05", *own]
        yield kind, "predictor_corrector", two, ("reverse_diffusion", "langevin"), {"n_steps": 2, "snr": 0.05}


@pytest.mark.parametrize(("kind", "name", "overrides", "theirs", "options"), cases())
def test_we_end_where_song_et_al_do(kind, name, overrides, theirs, options):
    n = 1000 if name == "predictor_corrector" and not options else 100
    chain, sampler, tally = chain_of(kind, n), build("sampler", name, *overrides), Tally()
    steps = n - 1 if name == "corrector_only" else n
    sampler.spacing = UniformTime(to_clean=sampler.spacing.to_clean)  # the chain's levels
    levels = sampler.grid(chain, steps)
    x = float(levels[0].sigma) * X
    end = sampler.run(tally.counted(clouds), chain, levels, x, Drawn())
    assert distance(end, song(kind, n, *theirs, x, **options)) < 1e-10
    corrections = options.get("n_steps", 1) if theirs[1] else 0
    assert tally.calls == sampler.nfe(steps, chain) == n * (corrections + bool(theirs[0]))


@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_the_shipped_last_step_differs_from_theirs_by_the_square_of_the_last_beta(kind):
    sampler, chain = build("sampler", "predictor_corrector"), chain_of(kind, 1000)
    assert sampler.nfe(1000, chain) == 2000
    levels = sampler.grid(chain, 1000)
    x = float(levels[0].sigma) * X
    end = sampler.run(clouds, chain, levels, x, Drawn())
    assert distance(end, song(kind, 1000, "reverse_diffusion", "langevin", x)) < (1e-10 if kind == "ve" else 1e-7)


def test_a_grid_without_clean_data_is_corrected_at_its_last_level_too():
    sampler = build("sampler", "predictor_corrector", "spacing.to_clean=false")
    seen = []

    def denoise(x, level):
        seen.append(float(level.t))
        return ORACLE(x, level)

    sampler(denoise, chain_of("ve", 1000), (1,), Noise(0, torch.arange(3)), steps=4, dtype=F64)
    levels = [float(level.t) for level in sampler.grid(chain_of("ve", 1000), 4)]
    assert seen == [t for t in levels[:-1] for _ in range(2)] + levels[-1:]
    assert len(seen) == sampler.nfe(4, chain_of("ve", 1000))


def test_neither_predictor_nor_corrector_is_refused():
    with pytest.raises(ValueError, match="corrector_steps=0: it must be at least 1"):
        PredictorCorrector(UniformTime(), 9, None, corrector_steps=0)
