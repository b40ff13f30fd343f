"""Level distributions against their densities, over ranks, and the importance sampler against a plain reference."""

import math
from collections import deque

import numpy as np
import pytest
import torch
import torch.distributed as dist
from oracles import F64
from ranks import on_ranks
from scipy.stats import kstest, norm

from denoiselab.noise import Noise
from denoiselab.objectives.level_distributions import (
    CosineLogSNR,
    LogitNormalTime,
    LogNormalNoise,
    LossHistory,
    ModeTime,
    SingleLevel,
    UniformSteps,
    UniformTime,
    UShapedTime,
)
from denoiselab.objectives.uniforms import Antithetic, Independent, LowDiscrepancy, Stratified
from denoiselab.schedules import EDM, DiscreteVP, Flow, VPCosine, VPLinear, betas

N = 20_000
WIDE = EDM(1e-6, 1e6)


def noise(index, seed=0):
    return Noise(seed, index)


def drawn(distribution, schedule):
    return distribution(schedule, noise(torch.arange(N)))


def p_value(values, cdf):
    return kstest(values.numpy(), cdf).pvalue


def test_uniform_time():
    schedule = VPLinear()
    t = drawn(UniformTime(), schedule).level.t
    assert p_value((t - 1e-3) / 0.999, "uniform") > 1e-3


@pytest.mark.parametrize("a", [0.5, 4.0])
def test_u_shaped_time(a):
    """The integral of a (e^(a u) + e^(a (1 - u))) / (2 e^a - 2)."""
    t = drawn(UShapedTime(a), Flow()).level.t
    assert p_value(t, lambda u: (np.exp(a * u) - np.exp(a * (1 - u)) + np.exp(a) - 1) / (2 * np.exp(a) - 2)) > 1e-3


def test_log_normal_noise():
    sigma = drawn(LogNormalNoise(-1.2, 1.2), WIDE).level.sigma
    assert p_value(sigma.log(), norm(-1.2, 1.2).cdf) > 1e-3
    cut = drawn(LogNormalNoise(-1.2, 1.2), EDM(0.1, 0.5)).level.sigma
    assert cut.min() == 0.1
    assert cut.max() == pytest.approx(0.5)
    rho = drawn(LogNormalNoise(-1.2, 1.2), VPCosine()).level.rho
    assert p_value(rho.log(), norm(-1.2, 1.2).cdf) > 1e-3


def test_logit_normal_time():
    schedule = Flow()
    t = (drawn(LogitNormalTime(0.4, 0.8), schedule).level.t - schedule.t_min) / (schedule.t_max - schedule.t_min)
    assert p_value(torch.logit(t), norm(0.4, 0.8).cdf) > 1e-3


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29])
def test_mode_time(scale):
    """u -> t is monotone on the allowed scales, so the CDF is the inverse, here by bisection."""
    schedule = Flow()
    t = (drawn(ModeTime(scale), schedule).level.t - schedule.t_min) / (schedule.t_max - schedule.t_min)
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        u = (low + high) / 2
        above = 1 - u - scale * ((math.pi / 2 * u).cos() ** 2 - 1 + u) > t
        low, high = torch.where(above, u, low), torch.where(above, high, u)
    assert p_value(low, "uniform") > 1e-3


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_cosine_log_snr(shift):
    """Density sech(lam - shift) / pi, whose CDF is 2/pi atan(exp(lam - shift)); and the schedule's own range."""
    lam = drawn(CosineLogSNR(shift), WIDE).level.lam
    assert p_value(2 / math.pi * (lam - shift).exp().atan(), "uniform") > 1e-3
    narrow = drawn(CosineLogSNR(shift), EDM(0.5, 2.0)).level.sigma
    assert narrow.min() >= 0.5 * (1 - 1e-12)
    assert narrow.max() <= 2 * (1 + 1e-12)
    low, high = (2 / math.pi * math.atan(s * math.exp(shift)) for s in (0.5, 2.0))
    assert p_value((2 / math.pi * (narrow * math.exp(shift)).atan() - low) / (high - low), "uniform") > 1e-3


def test_uniform_steps_are_the_trained_levels_alone():
    schedule = DiscreteVP(betas.linear(10, 1e-3, 0.5, per=10))
    draw = drawn(UniformSteps(), schedule)
    index = draw.level.t * 10
    assert torch.allclose(index, index.round(), atol=1e-12)
    counts = torch.bincount(index.round().long(), minlength=11)[1:]
    assert counts.sum() == N
    assert (((counts - N / 10) ** 2) / (N / 10)).sum() < 27.9  # chi-squared of 9 degrees, p = 1e-3
    assert torch.allclose(draw.level.alpha, schedule.nodes().alpha[index.round().long() - 1], rtol=1e-12)
    chain = drawn(UniformSteps(steps=5), VPLinear()).level.t.unique()
    assert torch.allclose(chain, VPLinear().nodes(5).t)


def ranks(uniforms, batch, world):
    """The numbers of a global batch, each rank reading every `world`-th position of it."""
    start = 3 * batch
    out = torch.empty(batch, dtype=F64)
    for rank in range(world):
        index = torch.arange(start + rank, start + batch, world)
        out[index - start] = uniforms(noise(index))
    return out


@pytest.mark.parametrize("kind", [Stratified, LowDiscrepancy])
@pytest.mark.parametrize("world", [1, 4])
def test_one_number_in_each_stratum_of_the_global_batch(kind, world):
    u = ranks(kind(64), 64, world)
    assert sorted((u * 64).floor().long().tolist()) == list(range(64))
    if kind is LowDiscrepancy:
        assert torch.allclose(u.sort().values.diff(), torch.full((63,), 1 / 64, dtype=F64))
    else:
        assert u.sort().values.diff().std() > 1e-3
    assert torch.equal(u, ranks(kind(64), 64, 1))


def test_other_batches_have_other_offsets():
    u = LowDiscrepancy(8)(noise(torch.arange(80)))
    assert len((u.reshape(10, 8)[:, 0]).unique()) == 10


def test_antithetic_pairs_over_ranks():
    u = ranks(Antithetic(), 64, 4).reshape(32, 2)
    assert torch.allclose(u.sum(1), torch.ones(32, dtype=F64))
    assert len(u[:, 0].unique()) == 32
    assert p_value(Antithetic()(noise(torch.arange(N))), "uniform") > 1e-3


@pytest.mark.parametrize("uniforms", [Independent(), Stratified(64), LowDiscrepancy(64), Antithetic()])
def test_each_number_is_uniform_and_unlike_the_eps_that_follows(uniforms):
    """Over batches, not in one; and later draws are independent of it."""
    source = noise(torch.arange(64 * 200))
    u = uniforms(source)
    assert p_value(u.reshape(200, 64)[:, 17], "uniform") > 1e-3 or isinstance(uniforms, (Stratified))
    eps = source.normal((1,), F64)[:, 0]
    correlation = ((u - 0.5) * eps).mean() / (u.std() * eps.std())
    assert abs(float(correlation)) * (64 * 200) ** 0.5 < 4


def test_sample_i_has_its_level_whatever_the_batch():
    whole = UniformTime()(VPLinear(), noise(torch.arange(20))).level.t
    parts = [UniformTime()(VPLinear(), noise(part)).level.t for part in torch.arange(20).split(7)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(
    "distribution",
    [
        UniformTime(),
        UniformSteps(),
        LogNormalNoise(),
        LogitNormalTime(),
        ModeTime(),
        UShapedTime(),
        CosineLogSNR(0.3),
        SingleLevel(0.3),
        LossHistory(1000),
    ],
)
def test_levels_are_float64_and_in_range(distribution):
    """In float32 the variances of a chain's steps, differences of neighbours, would have four digits."""
    schedule = DiscreteVP(betas.linear(1000))
    level = drawn(distribution, schedule).level
    assert level.t.dtype == level.alpha.dtype == level.sigma.dtype == F64
    assert level.t.min() >= schedule.t_min
    assert level.t.max() <= schedule.t_max
    if isinstance(distribution, UniformSteps):
        assert torch.allclose(level.t * 1000, (level.t * 1000).round(), rtol=1e-13)


def test_single_level():
    level = SingleLevel(0.3)(VPLinear(), noise(torch.arange(5))).level
    assert (level.t == 0.3).all()
    with pytest.raises(ValueError, match=r"t=2.0: the schedule's times run from 0.001 to 1.0"):
        SingleLevel(2.0).check(VPLinear())


# ---------------------------------------------------------------- importance by loss


CHAIN = DiscreteVP(betas.linear(5, 1e-2, 0.5, per=5))


def observe(history, steps, losses):
    level = CHAIN.level((torch.tensor(steps, dtype=F64) + 1) / 5)
    history.observe(level, torch.tensor(losses))
    history.settle()


def test_history_is_a_ring_a_step():
    history, reference = LossHistory(5, history=3), [deque(maxlen=3) for _ in range(5)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        steps = torch.randint(5, (17,), generator=generator).tolist()
        losses = torch.rand(17, generator=generator).tolist()
        observe(history, steps, losses)
        for step, loss in zip(steps, losses, strict=True):
            reference[step].append(loss)
    for row, want in zip(history.losses, reference, strict=True):
        assert sorted(row.tolist()) == pytest.approx(sorted(want), rel=1e-6)


def test_uniform_until_every_step_has_its_history_then_the_root_of_the_mean_square():
    history = LossHistory(5, history=2, uniform=0.1)
    assert torch.allclose(history.probabilities(), torch.full((5,), 0.2, dtype=F64))
    observe(history, [0, 0, 1, 1, 2, 2, 3, 3], [3.0, 4.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0])
    assert torch.allclose(history.probabilities(), torch.full((5,), 0.2, dtype=F64))
    observe(history, [4], [0.0])
    assert torch.allclose(history.probabilities(), torch.full((5,), 0.2, dtype=F64))
    observe(history, [4], [0.0])
    root = torch.tensor([12.5**0.5, 1, 2, 5, 0], dtype=F64)
    assert torch.allclose(history.probabilities(), 0.9 * root / root.sum() + 0.1 / 5)
    state = LossHistory(5, history=2, uniform=0.1)
    state.load_state_dict(history.state_dict())
    assert torch.equal(state.probabilities(), history.probabilities())


def test_importance_weights_are_unbiased_and_reduce_the_variance():
    history, value = LossHistory(5, history=1, uniform=0.01), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=F64)
    plain = value[(drawn(UniformSteps(), CHAIN).level.t * 5).round().long() - 1]
    observe(history, list(range(5)), value.tolist())
    draw = drawn(history, CHAIN)
    index = (draw.level.t * 5).round().long() - 1
    p = torch.bincount(index) / N
    assert torch.allclose(p.double(), history.probabilities(), atol=0.015)
    estimate = draw.weight * value[index]
    z = (estimate.mean() - value.mean()) / (estimate.std() / N**0.5)
    assert abs(z) < 4, z
    assert estimate.std() < 0.1 * plain.std()


def batches(world, rank=0, accumulated=1):
    """A history of two optimizer steps of 12 images, in which a step of the chain has more losses than are kept."""
    history = LossHistory(5, history=2)
    for start in (0, 12):
        for first in range(start, start + 12, 12 // accumulated):
            index = torch.arange(first + rank, first + 12 // accumulated, world)
            level = CHAIN.level((index % 5 + 1).to(F64) / 5)
            history.observe(level, index.float() + 1)
        history.settle()
    return history.losses, history.count


def one_rank(rank, path, out):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.save([batches(2, rank, accumulated) for accumulated in (1, 2)], f"{out}{rank}")
    dist.destroy_process_group()


def test_the_history_is_that_of_one_process_on_any_number_of_them(tmp_path):
    on_ranks(one_rank, (tmp_path / "store", str(tmp_path / "out")), 2)
    want = batches(1)
    assert sorted(want[0][0].tolist()) == [16.0, 21.0]  # the last two of its losses
    for rank in (0, 1):
        for found in torch.load(f"{tmp_path / 'out'}{rank}"):
            assert all(map(torch.equal, found, want))
    assert all(map(torch.equal, batches(1, accumulated=3), want))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LogNormalNoise(std=0.0), "std=0.0"),
        (lambda: LogitNormalTime(std=-1.0), "std=-1.0"),
        (lambda: ModeTime(2.0), "scale=2.0"),
        (lambda: UShapedTime(0.0), "a=0.0"),
        (lambda: ModeTime(-1.1), "scale=-1.1"),
        (lambda: Stratified(0), "batch_size=0"),
        (lambda: LossHistory(1), "steps=1"),
        (lambda: LossHistory(5, history=0), "history=0"),
        (lambda: LossHistory(5, uniform=0.0), "uniform=0.0"),
        (lambda: LossHistory(7).check(CHAIN), "steps=7: the schedule has 5"),
        (lambda: UniformSteps().check(VPLinear()), "VPLinear is continuous"),
    ],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
