"""Pictures as PNG files: grids and strips of images, panels with labels, matplotlib figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from denoiselab.cleaning import figure_text
from denoiselab.files import atomic


def grid(images: Tensor, columns: int, gap: int = 0) -> Tensor:
    """Tile images `(N, C, H, W)` into one `(C, rows (H + gap), columns (W + gap))`; gaps grey, empty places black."""
    images = torch.nn.functional.pad(images, (0, gap, 0, gap), value=96)
    n, c, h, w = images.shape
    rows = -(-n // columns)
    padded = torch.cat((images, images.new_zeros(rows * columns - n, c, h, w)))
    return padded.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def write_png(path: Path, image: Tensor, scale: int = 1) -> None:
    """Write a `(C, H, W)` uint8 image (C = 1 or 3), each pixel as a square of `scale`, atomically."""
    pixels = image.permute(1, 2, 0).repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    with atomic(path) as file:
        file.write(buffer.getvalue())


def write_strip(path: Path, images: Tensor) -> None:
    """Write images `(N, C, H, W)` side by side at their own size."""
    write_png(path, grid(images, len(images)))


def magnification(height: int) -> int:
    """Factor that enlarges small images to about 64 pixels."""
    return max(1, 64 // height)


def write_rows(path: Path, strips: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """Write strips one below the other, each with its label on the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.75 * len(strips) + 0.4), dpi=110, layout="constrained")
    figure.suptitle(figure_text(title), fontsize=10)
    for axes, strip, label in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips, labels, strict=True):
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(figure_text(label), rotation=0, ha="right", va="center", fontsize=9)
    save(figure, path)


def write_columns(path: Path, panels: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """Write square panels side by side, each with its label above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(2.3 * len(panels), 4.6), 2.9), dpi=110, layout="constrained")
    figure.suptitle(figure_text(title), fontsize=10)
    for axes, panel, label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, labels, strict=True):
        axes.imshow(panel)
        axes.set(xticks=[], yticks=[])
        axes.set_title(figure_text(label), fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic(path) as file:
        figure.savefig(file, format="png")
