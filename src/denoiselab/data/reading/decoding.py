"""Decoding: an image of any kind to bytes of one shape."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from denoiselab.data.reading.depth import Stored, UnknownDepth, content_of, in_bytes, scaled, stored_by
from denoiselab.data.reading.records import Records

Resize = Literal["none", "center_crop", "random_crop", "stretch", "pad"]
Bytes = NDArray[np.uint8]

# Of ADM's random crop: the shorter side of the scaled image is 1 to this many times the crop's.
_ENLARGED = 1 / 0.8


class WrongSize(ValueError):  # noqa: N818
    """An intact image of another size than requested."""


class BadImage(ValueError):  # noqa: N818
    """An image that cannot be read; the message names it and the reason."""


def read(records: Records, i: int, decoder: Decoder) -> Bytes:
    """Record `i` as `Decoder.original` makes it, `(H, W, C)`.

    Raises:
        BadImage: If it cannot be read.
        UnknownDepth: If the option `bit_depth` is needed.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the decoder has its own limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = records.image(i)
            try:
                return decoder.original(image)
            finally:
                if isinstance(image, Image.Image):
                    image.close()
    except (MemoryError, UnknownDepth):
        raise
    except Exception as error:  # decoders raise errors of many types for damaged files
        text = f"{records.describe(i)}: {_reason(error)}"
        raise BadImage(text.encode(errors="backslashreplace").decode()) from error  # a name may not be UTF-8
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


@dataclass(frozen=True)
class Decoder:
    """Converts an image of Pillow or an array to bytes `(C, H, W)`.

    Of several frames the first is used; the EXIF orientation is applied; transparent parts are composited on white;
    CMYK and other models become RGB, and grey for C = 1. Colour profiles and gamma are ignored, as in ADM's and EDM's
    tools.

    Values of d bits, 0 to 2^d - 1, become the nearest of 0 to 255. If the file states its range, that is used: fewer
    than 8 bits, TIFF's 12 bits, PGM's largest value. Otherwise d is `bit_depth`, or by default 8 for bytes, and 16 for
    16 bits if the image uses the highest bit; if not, it is refused. Signed numbers and floats are refused.

    Args:
        shape: (C, H, W), C of 1 or 3.
        resize: How images of other sizes are treated: "none" refuses them; "center_crop" and "random_crop" are the
            functions below, the latter only in training; "stretch" ignores the aspect ratio (Lanczos, as EDM's
            dataset_tool); "pad" adds black on all sides.
        max_pixels: Images with more are refused by their headers; so are images that would have more when scaled for a
            crop.
        bit_depth: Bits per value, of images that could hold more; None: all that they hold.
    """

    shape: tuple[int, int, int]
    resize: Resize
    max_pixels: int
    bit_depth: int | None = None

    def original(self, image: Image.Image | NDArray[Any]) -> Bytes:
        """Bytes `(H, W, C)` in the original size.

        Raises:
            OSError: If the file is damaged.
            ValueError: If it has too many pixels, before or after scaling, or values of an unknown range.
            UnknownDepth: If 16 bits may be partly used, see above.
        """
        if not isinstance(image, Image.Image):
            image = _from_array(image, self.bit_depth)
            stored = Stored("", stated=True)
        else:
            stored = stored_by(image)
        if image.width * image.height > self.max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than data.max_pixels={self.max_pixels}")
        content = content_of(image) if stored.colours and image.format == "PNG" else None
        if image.format == "TIFF":  # Pillow memory-maps a rotated one with height and width exchanged
            image.filename = ""  # type: ignore[attr-defined]
        image.load()
        image = in_bytes(image, stored, self.bit_depth, content)
        with contextlib.suppress(Exception):  # an image with damaged EXIF data is kept
            image = ImageOps.exif_transpose(image)
        if self.resize in ("center_crop", "random_crop"):
            self._check_scaled(image.height, image.width)
        pixels = np.asarray(_plain(image, "L" if self.shape[0] == 1 else "RGB"))
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _check_scaled(self, h: int, w: int) -> None:
        """Refuse an image that would have too many pixels when its shorter side is scaled to fit."""
        _, height, width = self.shape
        height, width = (
            math.ceil(side * _ENLARGED) if self.resize == "random_crop" else side for side in (height, width)
        )
        scale = max(height / h, width / w)
        if scale**2 * h * w > self.max_pixels:
            raise ValueError(
                f"{w} x {h} pixels become {round(w * scale)} x {round(h * scale)} when scaled to {width} x {height}, "
                f"more than data.max_pixels={self.max_pixels}"
            )

    def resized(self, pixels: Bytes, random: Sequence[float] | None = None) -> Bytes:
        """Bytes `(C, H, W)` of `pixels` `(h, w, C)`.

        Args:
            pixels: From `original`.
            random: Three numbers in (0, 1), for a random crop.

        Raises:
            WrongSize: If `resize` does not allow this size.
        """
        channels, height, width = self.shape
        h, w = pixels.shape[:2]
        if (h, w) != (height, width) or (self.resize == "random_crop" and random is not None):
            pixels = self._to_size(pixels, random)
        return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))

    def _to_size(self, pixels: Bytes, random: Sequence[float] | None) -> Bytes:
        _, height, width = self.shape
        h, w = pixels.shape[:2]
        match self.resize:
            case "none":
                pad = ", stretch or pad" if h <= height and w <= width else " or stretch"
                raise WrongSize(
                    f"it is {h} x {w}, and data.shape={list(self.shape)}; set data.resize=center_crop, random_crop"
                    f"{pad}, or another shape"
                )
            case "pad":
                if h > height or w > width:
                    raise WrongSize(
                        f"it is {h} x {w}, larger than data.shape={list(self.shape)}; data.resize=pad only enlarges"
                    )
                top, left = (height - h) // 2, (width - w) // 2
                return np.pad(pixels, ((top, height - h - top), (left, width - w - left), (0, 0)))
            case "stretch":
                image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
                return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
            case "random_crop" if random is not None:
                return random_crop(pixels, height, width, random)
            case _:
                return center_crop(pixels, height, width)


def center_crop(pixels: Bytes, height: int, width: int) -> Bytes:
    """The centre `(height, width, *)` of an image `(h, w, C)` scaled to cover it.

    The image is halved by averaging while it is at least twice as large, then scaled by a bicubic filter. For squares
    it is `center_crop_arr` of Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233.
    """
    scaled = _resampled(pixels, height, width)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return scaled[top : top + height, left : left + width]


def random_crop(pixels: Bytes, height: int, width: int, random: Sequence[float]) -> Bytes:
    """A random crop `(height, width, *)` of an image `(h, w, C)` scaled to cover 1 to 1.25 times the crop.

    For squares it is `random_crop_arr` of the same authors. `random` are three numbers in (0, 1), for scale, row and
    column.
    """
    side = min(height, width)
    longest = math.ceil(side * _ENLARGED)
    factor = (side + math.floor(random[0] * (longest + 1 - side))) / side
    scaled = _resampled(pixels, height * factor, width * factor)
    top = math.floor(random[1] * (scaled.shape[0] - height + 1))
    left = math.floor(random[2] * (scaled.shape[1] - width + 1))
    return scaled[top : top + height, left : left + width]


def _resampled(pixels: Bytes, height: float, width: float) -> Bytes:
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    while min(image.width / width, image.height / height) >= 2:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    least = (math.ceil(width - 1e-6), math.ceil(height - 1e-6))
    size = (max(round(image.width * scale), least[0]), max(round(image.height * scale), least[1]))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _from_array(pixels: NDArray[Any], depth: int | None) -> Image.Image:
    """An array `(H, W)` or `(H, W, C)`, uint8, uint16 in either byte order, or bool, as an image."""
    bits = {"bool": 1, "uint8": 8, "uint16": 16}.get(pixels.dtype.newbyteorder("=").name)
    if bits is None:
        raise ValueError(f"its values are {pixels.dtype}; expected are uint8, uint16 or bool")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4))):
        raise ValueError(f"its shape is {list(pixels.shape)}; expected is (H, W) or (H, W, C) with C of 1 to 4")
    return Image.fromarray(np.ascontiguousarray(scaled(pixels, bits, depth)))


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode`, L or RGB."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert("RGB").convert(mode)
