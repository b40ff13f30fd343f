"""Models in closed form whose condition is a class: 1 is the condition, 0 is null."""

import torch
from oracles import F64

from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Prediction
from denoiselab.guidance import Guidance, bind
from denoiselab.networks import Conditioning


class Pair:
    """The denoiser of one model for class 1, and of another for class 0; it keeps the sizes of its batches."""

    def __init__(self, cond, null):
        self.cond, self.null, self.sizes = cond, null, []

    def __call__(self, x, level, cond):
        self.sizes.append(len(x))
        a, b = self.cond(x, level), self.null(x, level)
        rows = (cond.class_label == 1).reshape(-1, *[1] * (x.ndim - 1))
        return Prediction(torch.where(rows, a.x0, b.x0), torch.where(rows, a.eps, b.eps))


class Always:
    """A model of one kind of data, whatever the condition."""

    def __init__(self, denoise):
        self.denoise = denoise

    def __call__(self, x, level, cond):
        return self.denoise(x, level)


def values(*numbers):
    return torch.tensor(numbers, dtype=F64)


def gaussian(mean, variance):
    return GaussianDenoiser(values(mean), values(variance)[:, None])


def modes(std, *means):
    count = len(means)
    return MixtureDenoiser(values(*means)[:, None], values(*[std] * count), values(*[1 / count] * count))


def classes(number, size):
    return Conditioning(class_label=torch.full((size,), number))


def bound(model, guidance, size, tally=None, channels=None):
    given = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    return bind(model, classes(1, size), classes(0, size), given, tally, channels)
