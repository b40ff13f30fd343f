"""Images and masks in files that a user gives, taken as they are: nothing is resized, flattened or rounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from denoiselab.data.images import ImageSet
from denoiselab.data.reading.decoding import BadImage, Bytes, Decoder, read
from denoiselab.data.reading.depth import stored_by
from denoiselab.data.sources.image_folder import FileRecords, folder_records
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of
from denoiselab.inverse import LinearOperator, Mask
from denoiselab.inverse.measurements import check_images


def image_folder(root: Path, shape: Sequence[int], option: str) -> tuple[ImageSet, list[str]]:
    """The images below a folder, of the shape (C, H, W), in the order of their names, and their names.

    They have the captions of `metadata.jsonl` or `metadata.csv`, as those of `ImageFolder`, and the `classes_of` their
    names, 0 where they have none. Where C is 1, an image whose three colours agree everywhere is grey.

    Raises:
        BadInput: If there is none, or one is no such image; it begins with `option`.
    """
    if len(shape) != 3:
        raise BadInput(f"{option}={root}: the model's samples are no images; give held_out or train.")
    try:
        records = folder_records(root, classes=False, option=option)
    except ValueError as error:
        raise BadInput(str(error)) from None
    images = torch.stack([_pixels(records, i, shape, option) for i in range(len(records))])
    names, classes = list(records.names), classes_of(records.names)
    return ImageSet(images, records.labels if classes is None else classes, records.captions), names


def classes_of(names: Sequence[str]) -> Tensor | None:
    """The classes `(N,)` int64 of files in folders that are named by their numbers, such as 7/a.png; None otherwise."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in names]
    whole = all(folder.isascii() and folder.isdigit() and len(folder) < 10 for folder in folders)
    return torch.tensor([int(folder) for folder in folders]) if whole else None


def known_pixels(path: Path, size: Sequence[int], known: str, option: str) -> Tensor:
    """Which pixels a mask in a file marks as known, `(1, H, W)` bool.

    Args:
        path: An image of two values, black and white, in grey or in colours that agree.
        size: (H, W).
        known: Of which colour known pixels are, `white` or `black`.
        option: The messages begin with.

    Raises:
        BadInput: If it is no mask of that size, or marks all pixels or none.
    """
    if path.is_dir():
        raise BadInput(f"{option}={path}: it is a folder, and one file is needed, the mask of all images.")
    if not path.is_file():
        raise BadInput(f"{option}={path}: there is no such file.")
    records = FileRecords(path.parent, [path.name], torch.zeros(1, dtype=torch.int64), [], None, "")
    pixels = _pixels(records, 0, (1, *size), option)
    if others := sorted({*pixels.unique().tolist()} - {0, 255}):
        raise BadInput(f"{option}={path}: a mask is black (0) and white (255) only, and it has {others[0]} too.")
    found = pixels == (255 if known == "white" else 0)
    if bool(found.all()) or not bool(found.any()):
        which = "every" if bool(found.all()) else "no"
        raise BadInput(f"{option}={path}: it marks {which} pixel as known ({known}); some must be, and some not.")
    return found


def masks_of(
    path: Path, names: Sequence[str], size: Sequence[int], known: str, option: str
) -> tuple[Tensor, str | list[str]]:
    """Which pixels of images are known, `(N, 1, H, W)` bool, by a mask in a folder for each; or by one file for all.

    The mask of 3/a.jpg is 3/a.png, in any format.

    Args:
        path: A file, for `(1, 1, H, W)`, or a folder.
        names: Of the images' files, N.
        size: (H, W).
        known: As in `known_pixels`.
        option: The messages begin with.

    Returns:
        The pixels, and the SHA-256 of the file, or of each.

    Raises:
        BadInput: If a mask is refused, or images and masks of a folder are not in pairs.
    """
    if not path.is_dir():
        return known_pixels(path, size, known, option)[None], sha256_of(path)
    masks = dict[str, str]()
    for name in folder_records(path, classes=False, option=option).names:
        if (other := masks.setdefault(_stem(name), name)) != name:
            raise BadInput(f"{option}={path}: {other} and {name} are masks of one name; remove one.")
    images = {_stem(name): name for name in names}
    for have, lack, what in ((images, masks, "image"), (masks, images, "mask")):
        if alone := sorted(have.keys() - lack.keys()):
            other = "mask" if what == "image" else "image"
            raise BadInput(
                f"{option}={path}: the {what} {have[alone[0]]} has no {other} of its name ({len(alone)} such); a "
                "folder needs a mask for each image, such as a.png for a.jpg; one file is a mask for all."
            )
    files = [path / masks[_stem(name)] for name in names]
    return torch.stack([known_pixels(file, size, known, option) for file in files]), [*map(sha256_of, files)]


def _stem(name: str) -> str:
    return str(Path(name).with_suffix(""))


class MaskFile(Mask):
    """The known pixels of a mask in a file: inpainting.

    Args:
        mask: A black and white picture, of the size of samples.
        known: Colour of the known pixels.
    """

    def __init__(self, mask: str, known: Literal["white", "black"] = "white") -> None:
        LinearOperator.__init__(self)
        self.path, self.colour = Path(mask).expanduser(), known

    def bind(self, shape: Sequence[int]) -> Self:
        check_images(f"operator.mask={self.path}", shape)
        self._know(known_pixels(self.path, shape[1:], self.colour, "task.operator.mask")[0])
        self.sha256 = sha256_of(self.path)
        return super().bind(shape)


class _AsTheyAre(Decoder):
    """Images of 8 bits without alpha, in the size of `shape`; others are refused."""

    def original(self, image: Image.Image | NDArray[Any]) -> Bytes:
        assert isinstance(image, Image.Image)
        channels, *size = self.shape
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            raise ValueError("it has an alpha channel; give it without")
        if image.mode.startswith(("I", "F")) or stored_by(image).colours:
            raise ValueError("it has more than 8 bits a value; give it with 8")
        pixels = super().original(image)
        if [*pixels.shape[:2]] != size:
            found, wanted = (" x ".join(map(str, sides)) for sides in (pixels.shape[:2], size))
            raise ValueError(f"it has {found} pixels (height x width), and {wanted} are needed; resize it before")
        if channels == 1 and image.mode not in ("1", "L"):
            colours = np.asarray(image.convert("RGB"))
            if bool((colours != colours[..., :1]).any()):
                raise ValueError("it is in colour, and grey is needed; convert it before")
        return pixels


def _pixels(records: FileRecords, i: int, shape: Sequence[int], option: str) -> Tensor:
    """Image `i`, `(C, H, W)` uint8."""
    channels, height, width = shape
    decoder = _AsTheyAre((channels, height, width), "none", Image.MAX_IMAGE_PIXELS or 2**28)
    try:
        pixels = read(records, i, decoder)
    except BadImage as error:
        raise BadInput(f"{option}: {error}.") from None
    return torch.tensor(decoder.resized(pixels))
