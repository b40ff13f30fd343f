"""Samples compared with the pictures of their captions."""

import math

import pytest
import torch

from denoiselab.data import rows_of
from denoiselab.evaluation import ClassAccuracy, Layer, Retrieval
from denoiselab.evaluation.metrics.retrieval import areas

N = 60


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    data, pictures = (torch.randn(n, 32, generator=generator) * torch.arange(1, 33) + 5 for n in (500, N))
    for part in (data, pictures):
        part[:, 3] = 7.0  # constant over the data
    return data, pictures, generator


def scored(samples, features, split="held_out", rows=None):
    data, pictures, _ = features
    rows = torch.arange(len(samples)) if rows is None else rows
    reference = Layer(None, data, held_out=Layer(None, pictures))
    return Retrieval().scores(Layer(None, samples, pictures=(split, rows)), reference)["retrieval_auc"]


def test_the_area_is_that_of_its_definition(features):
    data, pictures, generator = features
    samples = pictures[:20] + 20 * torch.randn(20, 32, generator=generator)
    keep = [i for i in range(32) if i != 3]
    one, other = (((part - data.mean(0)) / data.std(0))[:, keep].double() for part in (samples, pictures))
    similar = torch.nn.functional.cosine_similarity(one[:, None], other[None], dim=2)
    wanted = [
        sum(float(s < row[i]) + 0.5 * float(s == row[i]) for j, s in enumerate(row) if j != i) / (N - 1)
        for i, row in enumerate(similar)
    ]
    found = areas(samples, pictures, torch.arange(20), data)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    score = scored(samples, features)
    assert score.value == pytest.approx(sum(wanted) / 20)
    assert 0.5 < score.value < 1
    assert score.standard_error == pytest.approx(float(torch.tensor(wanted).std()) / math.sqrt(20), rel=0.03)


def test_pictures_themselves_have_one_and_noise_shuffles_and_one_picture_a_half(features):
    data, pictures, generator = features
    assert scored(pictures, features).value == 1
    assert scored(pictures[7:9], features, rows=torch.tensor([N + 7, 8])).value == 1  # in turn
    assert scored(data[rows_of(torch.arange(50), 500, "train")], features, "train").value == 1
    shuffled = pictures[torch.randperm(N, generator=generator)]
    noise = torch.randn(N, 32, generator=generator)
    for samples in (shuffled, noise):
        score = scored(samples, features)
        assert abs(score.value - 0.5) < 3 * score.standard_error + 0.02
    assert scored(pictures[:1].expand(N, -1), features).value == pytest.approx(0.5)
    assert scored(data.mean(0).expand(N, -1), features).value == 0.5  # all similarities are 0: ties


def test_what_is_not_finite_or_has_no_captions_is_refused(features):
    data, pictures, _ = features
    with pytest.raises(ValueError, match="a feature is not finite"):
        scored(torch.full((N, 32), math.nan), features)
    with pytest.raises(ValueError, match="every feature is constant"):
        areas(pictures, pictures, torch.arange(N), torch.ones(9, 32))
    none = Retrieval().scores(Layer(None, pictures), Layer(None, data))["retrieval_auc"]
    assert math.isnan(none.value)
    assert "no caption" in none.reason


def test_the_floor_of_accuracy_is_the_mean_over_all_assignments():
    generator = torch.Generator().manual_seed(0)
    classes, logits = torch.randint(4, (40,), generator=generator), torch.randn(40, 3, generator=generator)
    scores = ClassAccuracy(floor=True).scores(Layer(None, logits, classes=classes), Layer(None, None))
    shuffles = (classes[torch.randperm(40, generator=generator)] for _ in range(4000))
    mean = sum(float((logits.argmax(1) == shuffled).double().mean()) for shuffled in shuffles) / 4000
    assert scores["accuracy_floor"].value == pytest.approx(mean, abs=0.005)
    assert [*ClassAccuracy().scores(Layer(None, logits), Layer(None, None))] == ["accuracy"]
