"""Opening image files of the supported formats."""

from __future__ import annotations

import functools
import io
import stat
from pathlib import Path

from PIL import Image

# Formats of photographs and drawings among Pillow's. Not PostScript: Ghostscript would run it as a program, whatever
# the extension of the file.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def open_image(source: str | Path | bytes | memoryview) -> Image.Image:
    """The image in a file, or in the bytes of one, not decoded yet.

    Raises:
        OSError: If it is not an image or not a regular file; reading from a pipe might never end.
    """
    if isinstance(source, (bytes, memoryview)):
        return Image.open(io.BytesIO(source), formats=_formats())
    if not stat.S_ISREG(Path(source).stat().st_mode):
        raise OSError("not a regular file, but a pipe, a socket or a device")
    return Image.open(source, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    """The formats that the installed Pillow supports."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]
