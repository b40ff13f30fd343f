"""Maps of the class of each pixel in PNG files beside images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoiselab.data.reading.decoding import Resize
from denoiselab.data.reading.records import Reopened, Strings

# Of Pillow, with one whole number a pixel; of a palette it is the index.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


@dataclass(frozen=True)
class LabelMaps(Reopened):
    """The maps of the images of a folder, by their rows.

    Args:
        root: The folder of the maps.
        names: Of their files, relative to it.
        size: (H, W) of the images.
        resize: Of the images, whose geometry maps have, too, without interpolation.
        kept: Keep maps in memory once they are read.
        identity: sha256 of names and sizes of the files.
    """

    root: Path
    names: Sequence[str]
    size: tuple[int, int]
    resize: Resize
    kept: bool
    identity: str

    def __call__(self, rows: Tensor) -> Tensor:
        """The classes `(B, H, W)` int64 of the pixels of `rows` `(B,)`.

        Raises:
            ValueError: If a map cannot be read, or has another size than its image; the message names it.
        """
        return torch.stack([torch.from_numpy(self._map(row).astype(np.int64)) for row in rows.tolist()])

    @cached_property
    def _memory(self) -> dict[int, np.ndarray]:
        return {}

    def _map(self, row: int) -> np.ndarray:
        found = self._memory.get(row)
        if found is None:
            found = self._read(self.root / self.names[row])
            if self.kept:
                self._memory[row] = found
        return found

    def _read(self, path: Path) -> np.ndarray:
        height, width = self.size
        try:
            with Image.open(path) as image:
                if image.mode not in _MODES:
                    raise ValueError(
                        f"it is of the mode {image.mode}; a map has one number a pixel, in grey or by a palette"
                    )
                if (image.height, image.width) != self.size:
                    if self.resize == "none":
                        raise ValueError(f"it is {image.height} x {image.width}, and images are {height} x {width}")
                    return np.array(_cropped(image, height, width))
                return np.array(image)
        except (OSError, ValueError) as error:
            raise ValueError(f"data.maps: {path}: {error}.") from None


def maps_beside(root: Path, names: Sequence[str], size: Sequence[int], resize: Resize, *, kept: bool) -> LabelMaps:
    """The maps of images: that of a/b.jpg is a/b.png below `root`.

    Args:
        root: The folder of the maps.
        names: Of the images' files, relative to their root.
        size: (H, W) of the images.
        resize: Of the images.
        kept: As of `LabelMaps`.

    Raises:
        ValueError: If there is no such folder, an image has no map, or maps cannot follow `resize`.
    """
    if resize not in ("none", "center_crop"):
        raise ValueError(f"data.resize={resize}: maps follow none and center_crop alone; choose one of these.")
    if not root.is_dir():
        raise ValueError(f"data.maps={root}: there is no such folder.")
    own = [str(Path(name).with_suffix(".png")) for name in names]
    digest, missing = hashlib.sha256(), list[str]()
    for image, name in zip(names, own, strict=True):
        file = root / name
        if file.is_file():
            digest.update(f"{name} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        else:
            missing.append(image)
    if missing:
        raise ValueError(
            f"data.maps={root}: {missing[0]} has no map ({len(missing):,} such); each image needs a PNG of its name, "
            "as a.png for a.jpg."
        )
    return LabelMaps(root, Strings(own), (size[0], size[1]), resize, kept, digest.hexdigest())


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """The pixels of a map that `decoding.center_crop` keeps of its image."""
    w, h = image.size
    while min(w / width, h / height) >= 2:
        w, h = w // 2, h // 2
    scale = max(width / w, height / h)
    scaled = image.resize((max(round(w * scale), width), max(round(h * scale), height)), Image.Resampling.NEAREST)
    top, left = (scaled.height - height) // 2, (scaled.width - width) // 2
    return scaled.crop((left, top, left + width, top + height))
