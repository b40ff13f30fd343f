"""What samples are, images, waveforms or points: how they are shown and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.data.sources.tones import RATE
from denoiselab.evaluation.report import tables
from denoiselab.files import atomic
from denoiselab.media.labels import labelled_grid

# Half the side of every picture of points; data sets of points have variance 1.
EXTENT = 3.0

# Where the picture and the .wav of a waveform end; eight harmonics of variance 1 in all reach no further.
LOUDEST = 4.0


class Medium(Protocol):
    """How stored samples of a kind are shown and written."""

    shown: int  # samples of a cell that are kept for its picture

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the picture of one cell's stored samples."""
        ...

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the pictures of a sampler's cells, as arrays, with a label each."""
        ...

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write one picture of all stored samples, images in a square unless the number of columns is given.

        Below each image stands its label, if there are labels.
        """
        ...

    def write_pairs(self, path: Path, data: Tensor, reconstructions: Tensor) -> None:
        """Write one picture of stored data, each beside its reconstruction."""
        ...

    def write_samples(
        self,
        folder: Path,
        samples: Tensor,
        kind: str,
        columns: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Write stored samples as `kind` ("png", files to look at or hear, or "npz"), and `grid.png`, labelled."""
        ...


class Images:
    """Images in [-1, 1], stored as bytes; a cell is a strip, the same indices, so the same x_T, in every cell."""

    shown = 16

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the images side by side."""
        tables.write_strip(path, samples)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the strips one below the other."""
        tables.write_rows(path, cells, labels, f"{title}, same x_T in each column")

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write a square of images, or rows of `columns`, small ones enlarged, each above its label."""
        scale, columns = tables.magnification(samples.shape[2]), columns or round(len(samples) ** 0.5) or 1
        if labels is None:
            tables.write_png(path, tables.grid(samples, columns, gap=1), scale)
        else:
            tables.write_png(path, labelled_grid(samples, columns, labels, scale))

    def write_pairs(self, path: Path, data: Tensor, reconstructions: Tensor) -> None:
        """Write a square of pairs side by side."""
        both = torch.stack((data, reconstructions), 1).flatten(0, 1)
        self.write_grid(path, both, 2 * max(1, round((len(data) / 2) ** 0.5)))

    def write_samples(
        self,
        folder: Path,
        samples: Tensor,
        kind: str,
        columns: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Write a file an image, or one array `images` `(N, H, W, C)`; and a grid."""
        self.write_grid(folder / "grid.png", samples, columns, labels)
        if kind == "npz":
            with atomic(folder / "samples.npz") as file:
                np.savez(file, images=samples.permute(0, 2, 3, 1).numpy())
        else:
            for number, image in enumerate(samples):
                tables.write_png(folder / f"{number:06d}.png", image)


class Points:
    """Points as they are; a picture shows the first two coordinates on [-3, 3]^2."""

    shown = 10_000

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write a map of where the points are, 240 pixels wide, that needs no axes."""
        from matplotlib import colormaps  # slow to import

        counts = histogram(samples, 120)
        peak = max(float(np.quantile(counts[counts > 0], 0.99)), 1.0) if counts.any() else 1.0
        pixels = colormaps[COLOURS](np.sqrt(counts / peak).clip(0, 1), bytes=True)[..., :3]
        tables.write_png(path, _image(pixels), 2)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the maps side by side."""
        tables.write_columns(path, cells, labels, title)

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write the map of the points."""
        self.write_cell(path, samples)

    def write_pairs(self, path: Path, data: Tensor, reconstructions: Tensor) -> None:
        """Write a line from each point to its reconstruction."""
        from matplotlib.figure import Figure  # slow to import

        figure = Figure(figsize=(4, 4), dpi=110, layout="constrained")
        axes = figure.subplots()
        ends = F.pad(torch.stack((data, reconstructions), 1)[..., :2], (0, max(0, 2 - data.shape[1]))).numpy()
        axes.plot(*ends.transpose(2, 1, 0), color="0.6", linewidth=0.5)
        axes.plot(*ends[:, 0].T, ".", markersize=2, label="data")
        axes.plot(*ends[:, 1].T, ".", markersize=2, label="reconstruction")
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal")
        axes.legend(fontsize=8, loc="upper right")
        tables.save(figure, path)

    def write_samples(
        self,
        folder: Path,
        samples: Tensor,
        kind: str,
        columns: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Write one array `points` `(N, D)` float32, whatever `kind`, and a map of them as `grid.png`."""
        self.write_cell(folder / "grid.png", samples)
        with atomic(folder / "samples.npz") as file:
            np.savez(file, points=samples.numpy())


class Waveforms:
    """Signals as they are; a picture shows the first of them over time, on [-4, 4]."""

    shown = 4

    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the first channels of up to four signals one below the other, 240 pixels wide, without axes."""
        from matplotlib.figure import Figure  # slow to import

        traces = samples[: self.shown, 0].double().numpy()
        figure = Figure(figsize=(2.4, 2.4), dpi=100)
        for number, trace in enumerate(traces):
            axes = figure.add_axes((0.0, 1 - (number + 1) / self.shown, 1.0, 1 / self.shown))
            axes.plot(trace, linewidth=0.6)
            axes.set(xlim=(0, len(trace) - 1), ylim=(-LOUDEST, LOUDEST))
            axes.set_axis_off()
        tables.save(figure, path)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the cells' signals side by side."""
        tables.write_columns(path, cells, labels, f"{title}, same x_T in each row")

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write the first signals."""
        self.write_cell(path, samples)

    def write_pairs(self, path: Path, data: Tensor, reconstructions: Tensor) -> None:
        """Write the first signals, each above its reconstruction."""
        self.write_cell(path, torch.stack((data, reconstructions), 1).flatten(0, 1))

    def write_samples(
        self,
        folder: Path,
        samples: Tensor,
        kind: str,
        columns: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Write one array `waveforms` `(N, C, L)` float32 or, for "png", a .wav of 16 bits a signal; and `grid.png`.

        Full scale of a .wav is 4; it plays at the rate of `data.tones`.
        """
        from scipy.io import wavfile  # slow to import

        self.write_cell(folder / "grid.png", samples)
        if kind == "npz":
            with atomic(folder / "samples.npz") as file:
                np.savez(file, waveforms=samples.numpy())
            return
        loudest = np.iinfo(np.int16).max
        for number, signal in enumerate((samples / LOUDEST).clamp(-1, 1)):
            with atomic(folder / f"{number:06d}.wav") as file:
                wavfile.write(file, RATE, (signal.T.double() * loudest).round().numpy().astype(np.int16))


COLOURS = "Blues"


def medium(shape: Sequence[int]) -> Medium:
    """Points for a shape (D,), waveforms for (C, L), images for (C, H, W).

    Raises:
        ValueError: Neither.
    """
    kinds: dict[int, Medium] = {1: Points(), 2: Waveforms(), 3: Images()}
    if len(shape) not in kinds:
        raise ValueError(
            f"data.shape={list(shape)}: it must be (D,) for points, (C, L) for waveforms or (C, H, W) for images."
        )
    return kinds[len(shape)]


def histogram(points: Tensor, bins: int) -> Any:
    """Counts `(bins, bins)` float64 of the first two coordinates on [-3, 3]^2, the top row first."""
    x, y = F.pad(points[:, :2], (0, max(0, 2 - points.shape[1]))).double().numpy().T
    side = (-EXTENT, EXTENT)
    return np.histogram2d(x, y, bins, (side, side))[0].T[::-1]


def _image(pixels: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
