"""Synthetic waveforms: harmonic tones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from denoiselab.data.points import PointSet
from denoiselab.data.sources.density import Density

RATE = 16_000  # samples per second
_LOWEST = 110.0  # Hz
_OCTAVES = 3
_HARMONICS = 8  # the highest is at 7,040 Hz, below half of RATE


@dataclass
class HarmonicTones(Density):
    """Steady tones of 8 harmonics at 16 kHz, of mean 0 and variance 1: a toy for signals of one dimension.

    x_l = sum_k a_k sin(2 pi k f l / 16000 + phi_k), k = 1..8: f log-uniform from 110 to 880 Hz, a_k proportional to
    k^-s with s uniform from 1/2 to 2 and sum_k a_k^2 = 2, phi_k uniform, all independent. Label: the octave of f.

    Options as in `Density`, `shape` (1, L).
    """

    classes = _OCTAVES

    size: int = 20_000
    held_out: int = 10_000

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or self.shape[0] != 1 or self.shape[1] < 1:
            raise ValueError(f"data.shape={list(self.shape)}: tones have shape [1, L].")
        super().__post_init__()

    def draw(self, n: int, generator: torch.Generator) -> PointSet:
        octave, slope = torch.rand(2, n, generator=generator, dtype=torch.float64)
        phase = torch.rand(n, _HARMONICS, generator=generator, dtype=torch.float64)
        k = torch.arange(1, _HARMONICS + 1, dtype=torch.float64)
        amplitude = k ** -(0.5 + 1.5 * slope[:, None])
        amplitude *= math.sqrt(2) / amplitude.norm(dim=1, keepdim=True)
        cycles = _LOWEST * 2 ** (_OCTAVES * octave) / RATE  # per sample
        time = torch.arange(self.shape[1], dtype=torch.float64)
        tones = torch.zeros(n, self.shape[1])
        for i in range(_HARMONICS):  # one at a time, to save memory
            turns = (i + 1) * cycles[:, None] * time + phase[:, i, None]
            tones += (amplitude[:, i, None] * (2 * math.pi * turns).sin()).float()
        return PointSet(tones[:, None], (_OCTAVES * octave).long(), self._fresh)
