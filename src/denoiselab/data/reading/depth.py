"""Images of 1 to 16 bits per value as bytes."""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

_ORIENTATION = 0x112  # EXIF tag


class UnknownDepth(ValueError):  # noqa: N818
    """An intact image whose values may have fewer bits than their container, and no depth is stated."""


class Stored(NamedTuple):
    """How an opened file stores its values.

    Attributes:
        raw: Pillow's raw mode.
        stated: The file states their range, and Pillow scales them by it.
    """

    raw: str
    stated: bool

    @property
    def colours(self) -> bool:
        """Whether they are colours of 16 bits, of which Pillow keeps the upper 8."""
        return ";16" in self.raw and not self.raw.startswith("I")


def stored_by(image: Image.Image) -> Stored:
    """How an opened file stores its values."""
    tile = next(iter(getattr(image, "tile", ())), None)
    if tile is None:
        return Stored("", stated=False)
    codec, args = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    raw = next((arg for arg in args if isinstance(arg, str)), "")
    largest = args[-1] if codec.startswith("ppm") and isinstance(args[-1], int) else None
    if largest == 65535 and image.mode == "RGB":
        raw += ";16"
    return Stored(raw, stated=largest not in (None, 255, 65535))


def content_of(image: Image.Image) -> bytes:
    """The bytes of an opened file."""
    file: Any = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


def in_bytes(image: Image.Image, stored: Stored, depth: int | None, content: bytes | None) -> Image.Image:
    """An image of at most 8 bits per value.

    Args:
        image: Read from its file.
        stored: From `stored_by`, before it was read.
        depth: As in `denoiselab.data.reading.decoding.Decoder`.
        content: Of a PNG file whose colours have 16 bits.

    Raises:
        ValueError: If a value is larger than the depth allows, or the range of values is unknown.
        UnknownDepth: If the depth is unknown.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, kind = np.asarray(image), image.format
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM"))
        if not sixteen or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"the range of its values (mode {image.mode}) is unknown")
        bits = 12 if stored.raw == "I;12" else 16
        pixels = _eight_bits(values, bits, bits if stored.stated or (bits == 12 and depth is None) else depth)
        white_is_zero = kind == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
        return _like(image, np.invert(pixels) if white_is_zero else pixels)
    if stored.colours:
        top = np.asarray(image.convert("RGB")).max()  # upper halves
        if depth == 16 or (depth is None and top >= 128):
            return image
        if content is None:
            raise UnknownDepth(
                "Pillow reads only the upper 8 of the 16 bits of its colours; set data.bit_depth=16 if all are used, "
                "or save it as PNG or .npy"
            )
        return _like(image, _sixteen_bit_colours(content, depth))
    narrow = stored.stated or re.search(r";[124]", stored.raw) is not None
    if depth is not None and depth < 8 and image.mode in ("L", "LA", "RGB", "RGBA") and not narrow:
        return _like(image, scaled(np.asarray(image), 8, depth))
    return image


def _sixteen_bit_colours(content: bytes, depth: int | None) -> Bytes:
    """The colours, and alpha if present, of a PNG file of 16 bits per value."""
    from torch import frombuffer, uint8
    from torchvision.io import ImageReadMode, decode_png  # slow to import

    decoded = decode_png(frombuffer(bytearray(content), dtype=uint8), ImageReadMode.UNCHANGED)
    return scaled(decoded.permute(1, 2, 0).numpy(), 16, depth)


def _like(image: Image.Image, pixels: Bytes) -> Image.Image:
    """An image of these pixels, with the orientation of another."""
    out = Image.fromarray(pixels)
    with contextlib.suppress(Exception):  # damaged EXIF data
        if (turned := image.getexif().get(_ORIENTATION)) is not None:
            out.getexif()[_ORIENTATION] = turned
    return out


def scaled(pixels: NDArray[Any], bits: int, depth: int | None) -> Bytes:
    """As `_eight_bits`, of `(H, W)` or `(H, W, C)`; with C = 2 or 4 the last is alpha, which may use all bits."""
    if pixels.ndim == 2 or pixels.shape[2] not in (2, 4):
        return _eight_bits(pixels, bits, depth)
    alpha = pixels[..., -1:]
    narrow = depth is not None and int(alpha.max(initial=0)) < 2**depth
    parts = _eight_bits(pixels[..., :-1], bits, depth), _eight_bits(alpha, bits, depth if narrow else bits)
    return np.concatenate(parts, axis=2)


def _eight_bits(values: NDArray[Any], bits: int, depth: int | None) -> Bytes:
    """Values stored in `bits`, of which `depth` are used, as bytes."""
    top = int(values.max(initial=0))
    if bits == 16 and depth is None and 0 < top < 2**15:
        raise UnknownDepth(
            f"its largest 16-bit value is {top}, so maybe only {top.bit_length()} bits are used; set "
            f"data.bit_depth={top.bit_length()} or, if the image is that dark, 16"
        )
    limit = 2 ** (bits if depth is None else min(bits, depth)) - 1
    if top > limit:
        raise ValueError(
            f"its largest value is {top}, more than the {limit} of data.bit_depth={depth}; if all images have more "
            f"bits, set data.bit_depth={top.bit_length()} or more"
        )
    nearest = values if limit == 255 else (values.astype(np.uint32) * 510 + limit) // (2 * limit)
    return nearest.astype(np.uint8)
