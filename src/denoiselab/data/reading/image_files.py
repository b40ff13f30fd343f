"""Pictures in files, of the formats that are read."""

from __future__ import annotations

import functools
import io
import stat
from pathlib import Path

from PIL import Image

# Of all that Pillow reads, the formats of photographs and drawings. Not PostScript, a program that Ghostscript runs
# whatever the extension of its file.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def opened(source: str | Path | bytes | memoryview) -> Image.Image:
    """The picture in a file, or in the bytes of one, not decoded yet.

    Raises:
        OSError: It is no picture, or there is no such file, or a pipe or the like, which might be waited for without
            end.
    """
    if isinstance(source, (bytes, memoryview)):
        return Image.open(io.BytesIO(source), formats=_formats())
    if not stat.S_ISREG(Path(source).stat().st_mode):
        raise OSError("it is no file of bytes, but a pipe, a socket or a device")
    return Image.open(source, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    """Those for which this Pillow is built."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]
