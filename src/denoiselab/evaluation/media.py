"""What samples are, images or points: how they are stored, shown and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from denoiselab.data import to_uint8
from denoiselab.evaluation import report
from denoiselab.files import atomic

# Half the side of every picture of points; data sets of points have variance 1.
EXTENT = 3.0


class Medium(Protocol):
    """How samples of a kind are stored, shown and written."""

    shown: int  # samples of a cell that are kept for its picture

    def to_stored(self, x: Tensor) -> Tensor:
        """A sampler's output `(B, *)` as it is kept and scored."""
        ...

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the picture of one cell's stored samples."""
        ...

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the pictures of a sampler's cells, as arrays, with a label each."""
        ...

    def write_grid(self, path: Path, samples: Tensor) -> None:
        """Write one picture of all stored samples."""
        ...

    def write_samples(self, folder: Path, samples: Tensor, kind: str) -> None:
        """Write stored samples as `kind` ("png" or "npz"), and `grid.png`."""
        ...


class Images:
    """Images in [-1, 1], stored as bytes; a cell is a strip, the same indices, so the same x_T, in every cell."""

    shown = 16

    def to_stored(self, x: Tensor) -> Tensor:
        """Bytes `(B, C, H, W)`."""
        return to_uint8(x)

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the images side by side."""
        report.write_strip(path, samples)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the strips one below the other."""
        report.write_rows(path, cells, labels, f"{title}, same x_T in each column")

    def write_grid(self, path: Path, samples: Tensor) -> None:
        """Write a square of images, small ones enlarged."""
        scale = report.magnification(samples.shape[2])
        report.write_png(path, report.grid(samples, round(len(samples) ** 0.5) or 1, gap=1), scale)

    def write_samples(self, folder: Path, samples: Tensor, kind: str) -> None:
        """Write a file an image, or one array `images` `(N, H, W, C)`; and a grid."""
        self.write_grid(folder / "grid.png", samples)
        if kind == "npz":
            with atomic(folder / "samples.npz") as file:
                np.savez(file, images=samples.permute(0, 2, 3, 1).numpy())
        else:
            for number, image in enumerate(samples):
                report.write_png(folder / f"{number:06d}.png", image)


class Points:
    """Points as they are; a picture shows the first two coordinates on [-3, 3]^2."""

    shown = 10_000

    def to_stored(self, x: Tensor) -> Tensor:
        """Float32 `(B, D)`."""
        return x.float()

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write a map of where the points are, 240 pixels wide, that needs no axes."""
        from matplotlib import colormaps  # slow to import

        counts = histogram(samples, 120)
        peak = max(float(np.quantile(counts[counts > 0], 0.99)), 1.0) if counts.any() else 1.0
        pixels = colormaps[COLOURS](np.sqrt(counts / peak).clip(0, 1), bytes=True)[..., :3]
        report.write_png(path, _image(pixels), 2)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the maps side by side."""
        report.write_columns(path, cells, labels, title)

    def write_grid(self, path: Path, samples: Tensor) -> None:
        """Write the map of the points."""
        self.write_cell(path, samples)

    def write_samples(self, folder: Path, samples: Tensor, kind: str) -> None:
        """Write one array `points` `(N, D)` float32, whatever `kind`, and a map of them as `grid.png`."""
        self.write_cell(folder / "grid.png", samples)
        with atomic(folder / "samples.npz") as file:
            np.savez(file, points=samples.numpy())


COLOURS = "Blues"


def medium(shape: Sequence[int]) -> Medium:
    """Points for a shape (D,), images for (C, H, W).

    Raises:
        ValueError: Neither.
    """
    kinds: dict[int, Medium] = {1: Points(), 3: Images()}
    if len(shape) not in kinds:
        raise ValueError(f"data.shape={list(shape)}: it must be (D,) for points or (C, H, W) for images.")
    return kinds[len(shape)]


def histogram(points: Tensor, bins: int) -> Any:
    """Counts `(bins, bins)` float64 of the first two coordinates on [-3, 3]^2, the top row first."""
    x, y = F.pad(points[:, :2], (0, max(0, 2 - points.shape[1]))).double().numpy().T
    side = (-EXTENT, EXTENT)
    return np.histogram2d(x, y, bins, (side, side))[0].T[::-1]


def _image(pixels: Any) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
