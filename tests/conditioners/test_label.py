"""Class labels as conditioning."""

import pytest
import torch

from denoiselab.conditioners import ClassLabel, Clean
from denoiselab.noise import TRAINING, Noise

LABELS = torch.arange(3).repeat(1000)
CLEAN = Clean(torch.zeros(3000, 2), LABELS)


def test_labels_of_samples_and_of_training():
    conditioner = ClassLabel(3, dropout=0.5)
    assert conditioner.sample(torch.arange(5)).class_label.tolist() == [0, 1, 2, 0, 1]
    got = conditioner.train(CLEAN, Noise(0, torch.arange(3000), TRAINING)).class_label
    assert conditioner.null(torch.arange(5)).class_label.tolist() == [3] * 5
    dropped = got == 3
    assert abs(dropped.float().mean() - 0.5) < 0.04
    assert torch.equal(got[~dropped], LABELS[~dropped])


def test_classes_of_samples_are_chosen_and_known_labels_are_kept():
    conditioner = ClassLabel(3, classes=[2, 0])
    assert conditioner.sample(torch.arange(5)).class_label.tolist() == [2, 0, 2, 0, 2]
    assert torch.equal(conditioner.given(CLEAN).class_label, LABELS)
    for classes in ([3], [], [-1]):
        with pytest.raises(ValueError, match="at least one is needed, from 0 to 2"):
            ClassLabel(3, classes=classes)
