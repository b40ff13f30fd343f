"""Several extractors side by side: the mean of their ratios, its standard error, and what is refused."""

import pytest
import torch

import denoiselab
from denoiselab.data.images import ImageSet
from denoiselab.evaluation import FrechetDistance, FrechetRatio, SeveralExtractors, Workspace
from denoiselab.evaluation.contracts import Given, Growing
from denoiselab.evaluation.features.extractors import ImageExtractor, NetworkFeatures

IDENTITY = {"data": "noise", "split": "train"}


class Projection(ImageExtractor):
    """Pixels times a fixed matrix."""

    layers = frozenset({"features"})

    def __init__(self, name, dimension, seed, scale=1.0):
        self.name, self._matrix = (
            name,
            scale * torch.randn(16, dimension, generator=torch.Generator().manual_seed(seed)),
        )

    def extractor(self, layers, train, held_out, work):
        matrix = self._matrix

        class Network(torch.nn.Module):
            def forward(self, images):
                return {
                    "features": torch.nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1) @ matrix / 255
                }

        return NetworkFeatures(self.name, self.name.ljust(64, "0"), Network(), 1, {}, {}, "")


def images(n, seed, low=0):
    return torch.randint(low, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def data(n, seed):
    return ImageSet(images(n, seed), torch.zeros(n, dtype=torch.int64))


def fitted(extractors, tmp_path, metrics=None):
    several = SeveralExtractors(dict(enumerate(extractors)))
    train, work = data(600, 1), Workspace(tmp_path, shown=False)
    made = {"frechet_ratio": FrechetRatio()} if metrics is None else metrics
    scorer = several.fit(train, data(300, 2), made, {}, work)
    return scorer, scorer.reference(train, IDENTITY, work, torch.device("cpu"))


def scored(scorer, reference, samples):
    statistics = scorer.statistics()
    for batch in samples.split(70):
        statistics.update(batch)
    statistics.reduce(torch.device("cpu"))
    return scorer.scores(statistics, reference)


def test_the_error_of_the_mean_is_that_of_its_draws(tmp_path):
    pair = [Projection("a", 3, 0), Projection("b", 5, 1)]
    scorer, reference = fitted(pair, tmp_path)
    assert [*scorer.lower_is_better] == ["fdr_mean", "fdr_a", "fdr_b"]
    found = [scored(scorer, reference, images(200, seed, 9)) for seed in range(100, 220)]
    for one in found[:3]:
        assert one["fdr_mean"].value == pytest.approx((one["fdr_a"].value + one["fdr_b"].value) / 2)
    spread = float(torch.tensor([one["fdr_mean"].value for one in found]).std())
    assert sum(one["fdr_mean"].standard_error for one in found) / len(found) == pytest.approx(spread, rel=0.15)
    alone = [fitted([one, Projection("c", 2, 3)], tmp_path)[0] for one in pair]
    assert [one.lower_is_better["fdr_mean"] for one in alone] == [True, True]


def test_the_mean_of_equal_ratios_has_the_error_of_each(tmp_path):
    """Ratios do not depend on the scale of features; errors of independent ratios would fall by the root of 2."""
    scorer, reference = fitted([Projection("a", 4, 0), Projection("b", 4, 0, scale=3.0)], tmp_path)
    found = scored(scorer, reference, images(400, 5, 20))
    a, mean = found["fdr_a"], found["fdr_mean"]
    assert mean.value == pytest.approx(a.value, rel=1e-4)
    assert mean.standard_error == pytest.approx(a.standard_error, rel=1e-3)
    assert mean.influences.first == pytest.approx(a.influences.first, rel=1e-2, abs=1e-3)
    assert len(mean.influences.second) == len(a.influences.second) > 0


def test_statistics_go_on_from_their_state(tmp_path):
    scorer, reference = fitted([Projection("a", 3, 0), Projection("b", 5, 1)], tmp_path)
    samples, first, rest = images(140, 7), scorer.statistics(), scorer.statistics()
    first.update(samples[:70])
    first.reduce(torch.device("cpu"))
    rest.load(first.state())
    rest.update(samples[70:])
    rest.reduce(torch.device("cpu"))
    assert isinstance(rest, Growing)
    assert (rest.n, rest.dimension) == (140, 5)
    assert scorer.scores(rest, reference) == scored(scorer, reference, samples)


def test_metrics_that_are_no_ratios_have_no_mean(tmp_path):
    pair = [Projection("a", 3, 0), Projection("b", 5, 1)]
    scorer, _ = fitted(pair, tmp_path, {"frechet": FrechetDistance(), "frechet_ratio": FrechetRatio()})
    assert scorer.metric == "fd_a"
    assert [*scorer.lower_is_better][-2:] == ["fdr_b", "fdr_mean"]
    assert scorer.fingerprint != fitted(pair[::-1], tmp_path)[0].fingerprint


def test_scores_of_arrays_by_several(tmp_path):
    several = SeveralExtractors({"a": Projection("a", 3, 0), "b": Projection("b", 5, 1)})
    found = denoiselab.score(images(60, 3), images(90, 4), extractor=several, metrics="frechet", cache=tmp_path)
    assert [one.metric for one in found] == ["fd_a", "fd_a_infinity", "fd_b", "fd_b_infinity"]
    assert {one.extractor for one in found} == {"a+b"}


@pytest.mark.parametrize(
    ("extractors", "given", "says"),
    [
        ([Projection("a", 3, 0)], None, "at least two"),
        ([Projection("a", 3, 0), Projection("a", 4, 0)], None, "each must be another network"),
        ([Projection("a", 3, 0), object()], None, "extractors.1: it must be an extractor"),
        ([Projection("a", 3, 0), Projection("b", 4, 0)], Given("x.npz", 5), "evaluation.reference=x.npz"),
    ],
)
def test_what_is_refused(extractors, given, says):
    with pytest.raises(ValueError, match=says):
        SeveralExtractors(dict(enumerate(extractors))).check((1, 4, 4), {"f": FrechetRatio()}, 100, given)
