"""Images with a text below each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Pixels of a line, lines of a label, and pixels between images.
_LINE, _LINES, _GAP = 14, 3, 4


def labelled_grid(images: Tensor, columns: int, labels: Sequence[str], scale: int = 1) -> Tensor:
    """Images `(N, C, H, W)` uint8 in rows, each pixel as a square of `scale`, with its label below: `(C, H', W')`.

    A label is broken between words, or within one that is wider than an image; after three lines it ends in an
    ellipsis.
    """
    n, channels, height, width = images.shape
    font = _font()
    lines = [_broken(label, scale * width, font) for label in labels]
    text = _LINE * max(1, *map(len, lines)) if lines else 0
    cell = (scale * width + _GAP, scale * height + text + _GAP)
    mode = "L" if channels == 1 else "RGB"
    canvas = Image.new(mode, (columns * cell[0], -(-n // columns) * cell[1]))
    draw = ImageDraw.Draw(canvas)
    for i in range(n):
        left, top = i % columns * cell[0], i // columns * cell[1]
        pixels = images[i].permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels))
        canvas.paste(image.resize((scale * width, scale * height), Image.Resampling.NEAREST), (left, top))
        for number, line in enumerate(lines[i]):
            middle = left + (scale * width - font.getlength(line)) / 2
            draw.text((middle, top + scale * height + number * _LINE), line, "white", font)
    found = torch.from_numpy(np.array(canvas))
    return found[None] if channels == 1 else found.permute(2, 0, 1)


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib as mpl  # has it on all systems; slow to import

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 11)


def _broken(label: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The lines of a label, each at most so wide."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) > _LINES:
        last = lines[_LINES - 1]
        while last and font.getlength(f"{last}\u2026") > width:
            last = last[:-1]
        lines = [*lines[: _LINES - 1], f"{last}\u2026"]
    return lines
