"""Images, waveforms and points: how samples of each kind are shown and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.data.sources.tones import RATE
from denoiselab.files import atomic
from denoiselab.media import figures
from denoiselab.media.labels import labelled_grid

# Half the side of every picture of points; data sets of points have variance 1.
EXTENT = 3.0
COLOURS = "Blues"

# Where the picture and the .wav of a waveform end; eight harmonics of total variance 1 reach no further.
LOUDEST = 4.0


class Medium(ABC):
    """How stored samples of one kind are shown and written.

    Attributes:
        shown: Number of samples of a cell that are kept for its picture.
        array: Name of the array in `samples.npz`.
    """

    shown: int
    array: str

    @abstractmethod
    def write_cell(self, path: Path, samples: Tensor) -> None:
        """Write the picture of the stored samples of one cell of a frontier."""

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        """Write the pictures of a sampler's cells, given as arrays, with one label each."""
        figures.write_columns(path, cells, labels, title)

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write one picture of all stored samples.

        Images form a square, or rows of `columns`; each has its label below. Other kinds use neither.
        """
        self.write_cell(path, samples)

    @abstractmethod
    def write_pairs(
        self, path: Path, data: Tensor, reconstructions: Tensor, labels: Sequence[str] | None = None
    ) -> None:
        """Write one picture of stored data and their reconstructions, of images with labels below the latter."""

    def write_samples(
        self, folder: Path, samples: Tensor, kind: str, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        """Write stored samples and `grid.png`.

        Args:
            folder: Existing folder.
            samples: `(N, *)`.
            kind: "npz" for one array in `samples.npz`; "png" for one file a sample, where the kind has such files.
            columns: As in `write_grid`.
            labels: As in `write_grid`.
        """
        self.write_grid(folder / "grid.png", samples, columns, labels)
        self.write_files(folder, samples, kind)

    def write_files(self, folder: Path, samples: Tensor, kind: str) -> None:
        """As `write_samples`, without the grid."""
        (self._write_array if kind == "npz" else self._write_files)(folder, samples)

    def _write_array(self, folder: Path, samples: Tensor) -> None:
        with atomic(folder / "samples.npz") as file:
            np.savez(file, **{self.array: samples.numpy()})  # type: ignore[arg-type]  # numpy reads `allow_pickle`

    def _write_files(self, folder: Path, samples: Tensor) -> None:
        self._write_array(folder, samples)


class Images(Medium):
    """Images in [-1, 1], stored as bytes `(B, C, H, W)` and exported as `(N, H, W, C)`.

    The picture of a cell is a strip. All cells show the same indices, so the same x_T.
    """

    shown = 16
    array = "images"

    def write_cell(self, path: Path, samples: Tensor) -> None:
        figures.write_strip(path, samples)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        figures.write_rows(path, cells, labels, f"{title}, same x_T in each column")

    def write_grid(
        self, path: Path, samples: Tensor, columns: int | None = None, labels: Sequence[str] | None = None
    ) -> None:
        scale, columns = figures.magnification(samples.shape[2]), columns or round(len(samples) ** 0.5) or 1
        if labels is None:
            figures.write_png(path, figures.grid(samples, columns, gap=1), scale)
        else:
            figures.write_png(path, labelled_grid(samples, columns, labels, scale))

    def write_pairs(
        self, path: Path, data: Tensor, reconstructions: Tensor, labels: Sequence[str] | None = None
    ) -> None:
        both = torch.stack((data, reconstructions), 1).flatten(0, 1)
        below = None if labels is None else [text for label in labels for text in ("", label)]
        self.write_grid(path, both, 2 * max(1, round((len(data) / 2) ** 0.5)), below)

    def _write_array(self, folder: Path, samples: Tensor) -> None:
        super()._write_array(folder, samples.permute(0, 2, 3, 1))

    def _write_files(self, folder: Path, samples: Tensor) -> None:
        for number, image in enumerate(samples):
            figures.write_png(folder / f"{number:06d}.png", image)


class Points(Medium):
    """Points `(N, D)` float32. A picture shows the first two coordinates on [-3, 3]^2."""

    shown = 10_000
    array = "points"

    def write_cell(self, path: Path, samples: Tensor) -> None:
        from matplotlib import colormaps  # slow to import

        counts = histogram(samples, 120)
        peak = max(float(np.quantile(counts[counts > 0], 0.99)), 1.0) if counts.any() else 1.0
        pixels = colormaps[COLOURS](np.sqrt(counts / peak).clip(0, 1), bytes=True)[..., :3]
        figures.write_png(path, torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), 2)

    def write_pairs(
        self, path: Path, data: Tensor, reconstructions: Tensor, labels: Sequence[str] | None = None
    ) -> None:
        from matplotlib.figure import Figure  # slow to import

        figure = Figure(figsize=(4, 4), dpi=110, layout="constrained")
        axes = figure.subplots()
        ends = F.pad(torch.stack((data, reconstructions), 1)[..., :2], (0, max(0, 2 - data.shape[1]))).numpy()
        axes.plot(*ends.transpose(2, 1, 0), color="0.6", linewidth=0.5)
        axes.plot(*ends[:, 0].T, ".", markersize=2, label="data")
        axes.plot(*ends[:, 1].T, ".", markersize=2, label="reconstruction")
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal")
        axes.legend(fontsize=8, loc="upper right")
        figures.save(figure, path)


class Waveforms(Medium):
    """Signals `(N, C, L)` float32. A picture shows the first channels of up to four of them on [-4, 4].

    As files they are .wav of 16 bits with full scale at 4, at the rate of `denoiselab.data.sources.tones`.
    """

    shown = 4
    array = "waveforms"

    def write_cell(self, path: Path, samples: Tensor) -> None:
        from matplotlib.figure import Figure  # slow to import

        traces = samples[: self.shown, 0].double().numpy()
        figure = Figure(figsize=(2.4, 2.4), dpi=100)
        for number, trace in enumerate(traces):
            axes = figure.add_axes((0.0, 1 - (number + 1) / self.shown, 1.0, 1 / self.shown))
            axes.plot(trace, linewidth=0.6)
            axes.set(xlim=(0, len(trace) - 1), ylim=(-LOUDEST, LOUDEST))
            axes.set_axis_off()
        figures.save(figure, path)

    def write_sheet(self, path: Path, cells: Sequence[Any], labels: Sequence[str], title: str) -> None:
        super().write_sheet(path, cells, labels, f"{title}, same x_T in each row")

    def write_pairs(
        self, path: Path, data: Tensor, reconstructions: Tensor, labels: Sequence[str] | None = None
    ) -> None:
        self.write_cell(path, torch.stack((data, reconstructions), 1).flatten(0, 1))

    def _write_files(self, folder: Path, samples: Tensor) -> None:
        from scipy.io import wavfile  # slow to import

        loudest = np.iinfo(np.int16).max
        for number, signal in enumerate((samples / LOUDEST).clamp(-1, 1)):
            with atomic(folder / f"{number:06d}.wav") as file:
                wavfile.write(file, RATE, (signal.T.double() * loudest).round().numpy().astype(np.int16))


def medium(shape: Sequence[int]) -> Medium:
    """`Points` for a shape (D,), `Waveforms` for (C, L), `Images` for (C, H, W).

    Raises:
        ValueError: If the shape has another number of dimensions.
    """
    kinds: dict[int, type[Medium]] = {1: Points, 2: Waveforms, 3: Images}
    if len(shape) not in kinds:
        raise ValueError(
            f"data.shape={list(shape)}: it must be (D,) for points, (C, L) for waveforms or (C, H, W) for images."
        )
    return kinds[len(shape)]()


def histogram(points: Tensor, bins: int) -> Any:
    """Counts `(bins, bins)` float64 of the first two coordinates on [-3, 3]^2, the top row first."""
    x, y = F.pad(points[:, :2], (0, max(0, 2 - points.shape[1]))).double().numpy().T
    side = (-EXTENT, EXTENT)
    return np.histogram2d(x, y, bins, (side, side))[0].T[::-1]
