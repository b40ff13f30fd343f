import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from denoiselab.evaluation.metrics.feature_file import FeatureFile
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, in_second_half

N, D = 23, 5


def draws(seed=0, n=N, d=D):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=g) @ torch.randn(d, d, dtype=torch.float64, generator=g)


def collect(x, batch, statistics):
    for part in x.split(batch):
        statistics.update(part)
    return statistics


@pytest.mark.parametrize("batch", [1, 7, 16, 64])
def test_sums_give_mean_and_covariance_of_the_whole_and_of_halves(batch):
    x = draws()
    s = collect(x, batch, GaussianStatistics(D, kept=9))
    assert (s.n, s.compute().n) == (N, N)
    assert torch.allclose(s.mean, x.mean(0))
    assert torch.allclose(s.covariance, torch.cov(x.T))
    second = in_second_half(torch.arange(N))
    for half, part in zip(s.halves, (x[~second], x[second]), strict=True):
        assert half.n == len(part)
        assert torch.allclose(half.mean, part.mean(0))
        assert torch.allclose(half.covariance, torch.cov(part.T))
    assert torch.equal(s.first, x[:9])


@pytest.mark.parametrize("mean", [0, 1000, 10_000, 1e6])
def test_sums_are_double_and_keep_the_spread_of_features_whatever_their_mean(mean):
    x = draws().float() * torch.tensor([1, 1, 1, 0.5, 2**-6]) + mean
    s = collect(x, 7, GaussianStatistics(D))
    second = in_second_half(torch.arange(N))
    for found, part in zip((s.compute(), *s.halves), (x, x[~second], x[second]), strict=True):
        exact = (part.double() - part.double().mean(0)).T
        exact = exact @ exact.T / (len(part) - 1)
        assert torch.allclose(found.covariance, exact, rtol=0, atol=1e-12)
        assert torch.allclose(found.mean, part.double().mean(0), rtol=1e-14)


def test_features_that_are_not_finite_are_refused_by_their_number():
    for statistics in (GaussianStatistics(2), FeatureFile(2)):
        statistics.update(torch.zeros(3, 2))
        with pytest.raises(ValueError, match="sample 4"):
            statistics.update(torch.tensor([[0.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0]]))


def test_the_file_holds_features_in_order():
    x = draws().float()
    file = collect(x, 7, FeatureFile(D))
    assert torch.equal(file.features, x)
    file.update(x)
    assert torch.equal(file.features, torch.cat((x, x)))
    assert FeatureFile(D).features.shape == (0, D)


@pytest.mark.parametrize("kept", [4, 9, 2048])
def test_statistics_that_are_continued_from_their_state_are_those_without_a_break(kept, tmp_path):
    x, strata = draws() + 1000, 3
    for make in (lambda: GaussianStatistics(D, kept=kept, strata=strata), lambda: FeatureFile(D)):
        whole, part = make(), make()
        for batch in x.split(6):
            whole.update(batch)
            part.update(batch)
            part.reduce(torch.device("cpu"))
            torch.save(part.state(), tmp_path / "state")
            part = make()
            part.load(torch.load(tmp_path / "state"))
        for name in part.state():
            assert torch.equal(part.state()[name], whole.state()[name]), name
        assert part.n == N


def collect_blocks_on_ranks(rank, path, out, blocks):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    x, before, states = draws() + 1000 * torch.arange(N)[:, None], 0, [None, None]
    for end in blocks:
        share = range(before + rank * (end - before) // 2, before + (rank + 1) * (end - before) // 2)
        parts = [GaussianStatistics(D, kept=9, start=0 if rank == 0 else share.start), FeatureFile(D)]
        for i, part in enumerate(parts):
            if rank == 0 and before:
                part.load(states[i])
            collect(x[share.start : share.stop], 3, part).reduce(torch.device("cpu"))
            states[i] = {name: tensor.clone() for name, tensor in part.state().items()}
        before = end
    torch.save(states, f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_that_go_on_from_a_state_of_the_first_one_collect_what_one_does(tmp_path):
    on_ranks(collect_blocks_on_ranks, (tmp_path / "store", tmp_path / "out", (5, 11, N)), 2)
    x = draws() + 1000 * torch.arange(N)[:, None]
    sums, file = torch.load(f"{tmp_path / 'out'}0")
    found, whole = GaussianStatistics(D, kept=9), collect(x, 3, GaussianStatistics(D, kept=9))
    found.load(sums)
    for one, other in zip((found.compute(), *found.halves), (whole.compute(), *whole.halves), strict=True):
        assert one.n == other.n
        assert torch.allclose(one.mean, other.mean, rtol=1e-12)
        assert torch.allclose(one.covariance, other.covariance, rtol=1e-10)
    assert torch.equal(sums["rows"], whole.first)
    assert torch.equal(file["features"], x.float())


def collect_on_ranks(rank, path, out, splits):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=len(splits))
    share = (draws() + 1000 * torch.arange(N)[:, None]).split(splits)[rank]  # far from those of other ranks
    sums = collect(share, 3, GaussianStatistics(D, kept=9, start=sum(splits[:rank])))
    file = collect(share, 3, FeatureFile(D))
    for statistics in (sums, file):
        statistics.reduce(torch.device("cpu"))
    moments = [(half.n, half.mean, half.covariance) for half in (sums.compute(), *sums.halves)]
    torch.save((moments, sums.first, file.features), f"{out}{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("splits", [[9, 14], [23, 0], [7, 1, 15]])
def test_ranks_collect_what_one_does(splits, tmp_path):
    on_ranks(collect_on_ranks, (tmp_path / "store", tmp_path / "out", splits), len(splits))
    x = draws() + 1000 * torch.arange(N)[:, None]
    whole = collect(x, 3, GaussianStatistics(D, kept=9))
    for rank in range(len(splits)):
        moments, first, features = torch.load(f"{tmp_path / 'out'}{rank}")
        for (n, mean, covariance), half in zip(moments, (whole.compute(), *whole.halves), strict=True):
            assert n == half.n
            assert torch.allclose(mean, half.mean, rtol=1e-12)
            assert torch.allclose(covariance, half.covariance, rtol=1e-10)
        assert torch.equal(first, whole.first)
        if rank == 0:
            assert torch.equal(features, x.float())


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 13, 100])
def test_each_class_is_halved(classes):
    """Sample i of a class-conditional model is of class i mod K."""
    second = in_second_half(torch.arange(5000))
    for label in range(0, classes, max(1, classes // 10)):
        share = second[label::classes].double()
        assert abs(float(share.mean()) - 0.5) < 0.05 + 4 / len(share)
