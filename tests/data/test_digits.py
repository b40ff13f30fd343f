import numpy as np
from sklearn.datasets import load_digits

from denoiselab.data import Digits


def test_digits_are_those_of_scikit_learn():
    train, held_out = Digits("digits", [1, 8, 8], 10, validation=0).load()
    expected = load_digits()
    assert not len(held_out)
    assert np.array_equal(train.images[:, 0].numpy(), np.round(expected.images * (255 / 16)))
    assert np.array_equal(train.labels.numpy(), expected.target)
