"""What comparisons with other libraries share: the same levels, the same start, the same draws."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, mixture

from denoiselab.noise import Noise
from denoiselab.samplers.spacing import Karras

ORACLE = mixture()
X = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
# Float32 numbers, so that a peer may draw in float32.
DRAWS = torch.randn(20, *X.shape, generator=torch.Generator().manual_seed(0)).double()


class Replayed(Noise):
    """Hands out the draws in order."""

    def __init__(self):
        self.draws = iter(DRAWS)

    def like(self, x):
        return next(self.draws)


def ours(sampler, schedule, levels, x):
    return sampler.run(ORACLE, schedule, levels, x, Replayed())


def rule(kind, *arguments, **options):
    """A sampler; `run` is given levels, so neither its grid nor its number of steps counts."""
    return kind(Karras(), 10, *arguments, **options)


def distance(a, b):
    """The largest difference, relative to the largest value."""
    assert a.dtype == b.dtype == F64
    return float((a - b).abs().max() / b.abs().max())


def named(cases):
    """The cases, with ids."""
    return [pytest.param(*case, id="-".join(map(str, (case[0], *case[1].values())))) for case in cases]
