"""The share of samples that a classifier assigns to their class."""

import math

import pytest
import torch

from denoiselab.conditioners import ClassLabel
from denoiselab.evaluation import ClassAccuracy, Layer, Subject
from denoiselab.evaluation.feature_contracts import LOGITS
from denoiselab.evaluation.features.extractors import FeatureScorer, NetworkFeatures

LISTED = [2, 0, 2, 1]


class Means(torch.nn.Module):
    """The logit of class k is that of the mean of an image being 100 k."""

    def forward(self, images):
        distance = images.double().flatten(1).mean(1, keepdim=True) - torch.tensor([0.0, 100.0, 200.0])
        return {LOGITS: -distance.abs().float()}


class Owner:
    """A model with classes alone."""

    conditioner = ClassLabel(num_classes=3, classes=LISTED)


def scored(start, images, of_data=True):
    features = NetworkFeatures("means", "", Means(), 1, {}, {}, "")
    features.classifies_data = of_data
    scorer = FeatureScorer(features, [ClassAccuracy()], {})
    statistics = Subject(Owner(), None).statistics(scorer, start)
    statistics.update(images)
    return ClassAccuracy().scores(statistics.layer(LOGITS), Layer(None, None))["accuracy"]


@pytest.mark.parametrize("start", [0, 3])
def test_samples_have_the_listed_classes_in_turn_from_any_first_index(start):
    classes = torch.tensor(LISTED)[(start + torch.arange(40)) % 4]
    images = (100 * classes).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8).clone()
    assert scored(start, images).value == 1
    images[:10] = (100 * ((classes[:10] + 1) % 3)).reshape(-1, 1, 1, 1).to(torch.uint8)
    score = scored(start, images)
    assert score.value == 0.75
    assert score.influences.n == 40
    assert torch.allclose(score.influences.first.unique(), torch.tensor([-0.75, 0.25]))


def test_the_standard_error_is_that_of_a_share_within_classes():
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.1, 0.5, 0.9, 0.5])
    right = torch.rand(4000, generator=generator) < rates.repeat(1000)
    classes = torch.tensor(LISTED).repeat(1000)
    logits = torch.eye(3)[torch.where(right, classes, (classes + 1) % 3)]
    score = ClassAccuracy().scores(Layer(None, logits, strata=4, classes=classes), Layer(None, None))["accuracy"]
    exact = math.sqrt(float((rates * (1 - rates)).mean()) / 4000)
    assert score.standard_error == pytest.approx(exact, rel=0.03)


def test_samples_without_a_class_have_no_accuracy():
    score = ClassAccuracy().scores(Layer(None, torch.eye(3)), Layer(None, None))["accuracy"]
    assert math.isnan(score.value)
    assert score.reason == "samples or logits are of no class of the data"


def test_logits_of_other_classes_have_no_accuracy():
    assert math.isnan(scored(0, torch.zeros(4, 1, 2, 2, dtype=torch.uint8), of_data=False).value)
