"""Copies of power-function averages that a training keeps, and averages of other widths reconstructed from them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from denoiselab.errors import BadInput
from denoiselab.files import atomic, zip_is_whole
from denoiselab.training.checkpoint_files import CheckpointError, check_weights
from denoiselab.training.power_ema import WIDEST, Term, mix

Averages = Mapping[str, Mapping[str, Tensor]]

# Their folder, beside the checkpoints.
SNAPSHOTS = "snapshots"

# The greatest error of a reconstructed profile, as a fraction of its norm.
TOLERANCE = 0.05

# How an average of another width is named.
_WIDTH = re.compile(r"ema@(\d*\.?\d+)")


class Snapshots:
    """Which of the power-function averages are kept as files of their own.

    They are written each `every_images`, and where more than `keep` would be there, each 2, 4, ... times as many
    images: from `keep` / 2 to `keep` are there at any length of training.

    Args:
        every_images: The smallest interval in images seen.
        keep: Greatest number of files; each holds all averages by a power function.
        dtype: Of the numbers; float16 halves the files, as in EDM2's own code.

    Raises:
        ValueError: If a number is too small, or the type another one.
    """

    def __init__(
        self, every_images: int = 1000, keep: int = 32, dtype: Literal["float32", "float16"] = "float32"
    ) -> None:
        if every_images < 1:
            raise ValueError(f"every_images={every_images}: it must be at least 1.")
        if keep < 2:
            raise ValueError(f"keep={keep}: it must be at least 2.")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype={dtype}: allowed: float32, float16.")
        self.every_images, self.keep = every_images, keep
        self.dtype: torch.dtype = getattr(torch, dtype)

    def size(self, numbers: int) -> int:
        """Bytes of all files, at most, where each holds so many numbers."""
        return (self.keep + 1) * numbers * self.dtype.itemsize

    def due(self, images_seen: int, images: int) -> bool:
        """Whether a step of `images` that ended at `images_seen` passed a multiple of the interval."""
        interval = self._interval(images_seen)
        return images_seen // interval != (images_seen - images) // interval

    def planned(self, images_seen: int, images: int) -> list[int]:
        """Images seen of the files that are there after steps of `images` up to `images_seen`."""
        interval = self._interval(images_seen)
        steps = (-(-number * interval // images) * images for number in range(1, self.keep + 1))
        return [*dict.fromkeys(ended for ended in steps if ended <= images_seen)]

    def write(self, folder: Path, averages: Averages, images_seen: int) -> None:
        """Write the averages at `images_seen`, then remove the files that are too many.

        Raises:
            OSError: If they cannot be written.
        """
        copies = {
            name: {key: tensor.detach().to("cpu", self.dtype) for key, tensor in average.items()}
            for name, average in averages.items()
        }
        try:
            with atomic(_file(folder, images_seen)) as file:
                torch.save({"format": 1, "images_seen": images_seen, "averages": copies}, file)
        except (OSError, RuntimeError) as error:  # of the latter torch does not say why a write failed
            reason = getattr(error, "strerror", None) or "is the disk full?"
            raise OSError(
                f"{_file(folder, images_seen)}: cannot be written ({reason}); ema.snapshots=null writes none, and the "
                "checkpoints before are kept"
            ) from error
        interval, first = self._interval(images_seen), dict[int, int]()
        for moment in found(folder):
            if moment < interval or first.setdefault(moment // interval, moment) != moment:
                _file(folder, moment).unlink(missing_ok=True)

    def _interval(self, images_seen: int) -> int:
        interval = self.every_images
        while images_seen // interval > self.keep:
            interval *= 2
        return interval


def found(folder: Path) -> list[int]:
    """Images seen of the files in a folder, in order."""
    names = (re.fullmatch(r"(\d{12,})\.pt", path.name) for path in folder.glob("*.pt"))
    return sorted(int(name[1]) for name in names if name)


def drop_after(folder: Path, images_seen: int) -> None:
    """Remove what an interrupted training wrote after the checkpoint with which it goes on."""
    for moment in found(folder):
        if moment > images_seen:
            _file(folder, moment).unlink()


def _file(folder: Path, images_seen: int) -> Path:
    return folder / f"{images_seen:012d}.pt"


@dataclass(frozen=True)
class Basis:
    """The power-function averages of which those of other widths are reconstructed.

    Args:
        images: Seen, where an average is wanted.
        widths: sigma_rel of each average tracked up to there, by name.
        moments: Images seen of the files with earlier ones.
        folder: Of these files; None while they are only planned.
    """

    images: int = 0
    widths: Mapping[str, float] = field(default_factory=dict)
    moments: Sequence[int] = ()
    folder: Path | None = None

    def check(self, sigma_rel: float, option: str) -> None:
        """Refuse a width that cannot be reconstructed.

        Raises:
            BadInput: If there are no averages by a power function, no files, or too few of them for this width.
        """
        asked = f"{option}={name_of(sigma_rel)}"
        if not self.widths or not self.images:
            raise BadInput(f"{asked}: this model has no averages by a power function; a run has them with ema=power.")
        if self.tracked(sigma_rel) or (0 < sigma_rel <= WIDEST and self._error(sigma_rel) <= TOLERANCE):
            return
        if not self.moments:
            where = "" if self.folder is None else f" in {self.folder}"
            given = ", ".join(name_of(width) for width in sorted(self.widths.values()))
            raise BadInput(f"{asked}: there are no snapshots{where} to reconstruct it from; allowed: {given}.")
        least, greatest = self.reach()
        if least < sigma_rel < greatest:
            raise BadInput(
                f"{asked}: {len(self.moments)} snapshots reconstruct it with an error of {self._error(sigma_rel):.0%}, "
                f"and {TOLERANCE:.0%} is allowed; give a width nearer to one of those tracked "
                f"({', '.join(map(name_of, sorted(self.widths.values())))}), or train with more snapshots."
            )
        raise BadInput(
            f"{asked}: {len(self.moments)} snapshots give widths from {least:.3g} to {greatest:.3g}; allowed are these."
        )

    def reach(self) -> tuple[float, float]:
        """The least and the greatest width of which the error is within tolerance, by bisection."""
        least, greatest = min(self.widths.values()), max(self.widths.values())
        return self._limit(least, 1e-3), self._limit(greatest, WIDEST)

    def weights(self, name: str, own: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """The weights of a name that `Names.chosen` gave: a tracked average, or one that is reconstructed.

        Raises:
            BadInput: If a snapshot cannot be read.
        """
        width = None if name in own else width_of(name)
        return own[name] if width is None else self.average(width, own)

    def average(self, sigma_rel: float, own: Averages) -> dict[str, Tensor]:
        """The average of a width, float32.

        Args:
            sigma_rel: The width, which `check` accepts.
            own: The averages at `images`, by name.

        Raises:
            BadInput: If a file is damaged, or of another network.
        """
        if name := self.tracked(sigma_rel):
            return dict(own[name])
        first = own[next(iter(self.widths))]
        total = {key: torch.zeros(tensor.shape, dtype=torch.float64) for key, tensor in first.items()}
        coefficients = iter(mix(self._terms, self.images, sigma_rel).coefficients.tolist())
        for averages in self._averages(own):
            for name in self.widths:
                coefficient = next(coefficients)
                for key, tensor in total.items():
                    tensor.add_(averages[name][key].detach().cpu().double(), alpha=coefficient)
        return {key: tensor.float() for key, tensor in total.items()}

    @property
    def _terms(self) -> list[Term]:
        return [Term(images, width) for images in (self.images, *self.moments) for width in self.widths.values()]

    def tracked(self, sigma_rel: float) -> str | None:
        """The name of the tracked average of a width, if there is one."""
        return next((name for name, width in self.widths.items() if math.isclose(width, sigma_rel)), None)

    def _error(self, sigma_rel: float) -> float:
        return mix(self._terms, self.images, sigma_rel).error

    def _limit(self, inside: float, outside: float) -> float:
        if self._error(outside) <= TOLERANCE:
            return outside
        for _ in range(20):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self._error(middle) <= TOLERANCE else (inside, middle)
        return inside

    def _averages(self, own: Averages) -> Iterator[Averages]:
        yield own
        for moment in self.moments:
            assert self.folder is not None
            yield _read(_file(self.folder, moment), {name: own[name] for name in self.widths})


def basis(images_seen: int, widths: Mapping[str, float], folder: Path | None) -> Basis:
    """Of the averages tracked up to `images_seen`, and the snapshots in a folder."""
    moments = [] if folder is None else [moment for moment in found(folder) if moment < images_seen]
    return Basis(images_seen, widths, moments, folder)


def basis_of(path: Path, ours: Mapping[str, Any]) -> Basis:
    """Of a checkpoint file with our part `ours`, and the snapshots beside it."""
    return basis(ours["images_seen"], ours.get("sigma_rel", {}), path.parent / SNAPSHOTS)


def name_of(sigma_rel: float) -> str:
    """How weights of a width are named."""
    return f"ema@{sigma_rel:g}"


def width_of(name: str) -> float | None:
    """The width in a name of weights; None if it is no such name."""
    match = _WIDTH.fullmatch(name)
    return None if match is None else float(match[1])


def _read(path: Path, expected: Averages) -> Averages:
    """The averages in a file.

    Raises:
        BadInput: If it is missing, damaged, or of another network.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True) if zip_is_whole(path) else None
        averages = content["averages"]
        for name, average in expected.items():
            check_weights(path, average, averages[name])
    except CheckpointError as error:
        raise BadInput(f"weights: {error}") from None
    except Exception:  # a hostile pickle fails with any error
        raise BadInput(
            f"weights: {path}: damaged, or no snapshot of this run; without it, the others are used."
        ) from None
    return {name: averages[name] for name in expected}
