"""Scores beside the metrics of guided cells, against their definitions."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from denoiselab.data import ImageSet, PointSet
from denoiselab.evaluation import diversity
from denoiselab.evaluation.contracts import Measure, Workspace
from denoiselab.evaluation.diversity import Projections, with_diversity
from denoiselab.evaluation.features.extractors import FeatureScorer
from denoiselab.evaluation.metrics.frechet import FrechetDistance
from denoiselab.evaluation.metrics.wasserstein import SlicedScorer

CPU = torch.device("cpu")


def images(count, seed):
    drawn = torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageSet(drawn, torch.zeros(count, dtype=torch.int64))


class Counted(Projections):
    calls = 0

    def __call__(self, images):
        self.calls += 1
        return super().__call__(images)


def test_of_images_they_are_precision_recall_and_sliced_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(diversity, "MOST", 40)
    data, work, extractor = images(80, 0), Workspace(tmp_path, shown=False), Counted((1, 4, 4))
    scorer = FeatureScorer(extractor, [FrechetDistance()], {})
    reference = scorer.reference(data, {"data": "x", "split": "train"}, work, CPU)
    measure = with_diversity(Measure(scorer, reference), data, "x", 30, work, CPU)
    assert measure[:2] == (scorer, reference)
    joined, references, _ = measure.beside
    samples, before = images(30, 1).stored(torch.arange(30)) // 2, extractor.calls
    statistics = joined.statistics()
    for batch in samples.split(15):
        statistics.update(batch)
    assert extractor.calls == before + 2  # both scorers read the features of a batch that are computed once
    found = joined.scores(statistics, references)
    assert [*found] == ["fd_pixels", "fd_infinity_pixels", "precision_pixels", "recall_pixels", "sliced_w1_pixels"]
    assert joined.metric == "fd_pixels"
    x, y = (
        Projections((1, 4, 4))(some)["features"].double() for some in (samples, data.stored(torch.arange(0, 80, 2)))
    )
    radii_x, radii_y = (torch.cdist(some, some).sort(1).values[:, 3] for some in (x, y))
    between = torch.cdist(x, y)
    assert found["precision_pixels"].value == pytest.approx(float((between <= radii_y).any(1).double().mean()))
    assert found["recall_pixels"].value == pytest.approx(float((between <= radii_x[:, None]).any(0).double().mean()))
    pairs = [wasserstein_distance(a, b) for a, b in zip(x.T.numpy(), y[:30].T.numpy(), strict=True)]
    assert found["sliced_w1_pixels"].value == pytest.approx(sum(pairs) / len(pairs), rel=1e-6)


def test_of_points_they_are_precision_recall_and_the_kernel_distance_if_there_are_enough(tmp_path):
    points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    data, work = PointSet(points, torch.zeros(1000, dtype=torch.int64)), Workspace(tmp_path, shown=False)
    scorer = SlicedScorer(2, 8)
    own = Measure(scorer, scorer.reference(data, {}, work, CPU))
    for count, wanted in (
        (1000, ["precision_points", "recall_points", "kd_points"]),
        (4, ["precision_points", "recall_points"]),
    ):
        assert [*with_diversity(own, data, "x", count, work, CPU).beside.scorer.lower_is_better][1:] == wanted
    assert with_diversity(own, data, "x", 3, work, CPU).beside is None  # fewer than neighbours
