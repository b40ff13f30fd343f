"""What comparisons with other libraries share: the same levels, the same start, the same draws."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types

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


def ours(sampler, schedule, levels, x, denoise=ORACLE):
    return sampler.run(denoise, schedule, levels, x, Replayed())


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


@functools.cache
def k_diffusion():
    """Its samplers alone: the rest of the package imports what it is installed without, as that refuses NumPy 2."""
    package = types.ModuleType("k_diffusion")
    package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "k_diffusion", package)
        return importlib.import_module("k_diffusion.sampling")
