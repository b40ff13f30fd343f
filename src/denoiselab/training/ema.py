"""Exponential moving averages of the denoiser's weights: several profiles at once, keyed on images seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from denoiselab.errors import BadInput, closest
from denoiselab.training.power_ema import PowerFunction
from denoiselab.training.sharded_tensors import is_sharded, whole
from denoiselab.training.snapshots import Basis, Snapshots, basis, drop_after, name_of, width_of

RAW = "raw"


class Profile(Protocol):
    """The decay of a moving average."""

    def decay(self, images_seen: int, images: int, /) -> float:
        """The weight of the old average, from 0 to 1, in an optimizer step of `images` that ends at `images_seen`."""
        ...


class HalfLife:
    """The weight of past parameters halves every `images`, sooner at the start of training.

    decay = 0.5^(images in the step / min(half-life, ramp_up x images seen)).
    Source: Karras et al., EDM, arXiv 2206.00364, appendix F.2 (half-life 0.5 Mimg, ramp-up 5 %).

    Args:
        images: Half-life in images.
        ramp_up: Half-life as a fraction of images seen, while that is shorter; None for no ramp-up.

    Raises:
        ValueError: If a value is not positive.
    """

    def __init__(self, images: float, ramp_up: float | None = 0.05) -> None:
        if images <= 0:
            raise ValueError(f"images={images}: a half-life must be positive.")
        if ramp_up is not None and ramp_up <= 0:
            raise ValueError(f"ramp_up={ramp_up}: it must be positive, or null for none.")
        self.images, self.ramp_up = images, ramp_up

    def decay(self, images_seen: int, images: int) -> float:
        half_life = self.images if self.ramp_up is None else min(self.images, self.ramp_up * images_seen)
        return float(0.5 ** (images / half_life))


class Constant:
    """The same decay at every optimizer step (DDPM: 0.9999).

    Args:
        decay: At least 0 and less than 1.

    Raises:
        ValueError: If it is not.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: it must be at least 0 and less than 1.")
        self._decay = decay

    def decay(self, images_seen: int, images: int) -> float:
        return self._decay


@dataclass(frozen=True)
class Names:
    """What weights of a model can be asked for.

    Args:
        stored: The averages, then "raw".
        basis: Of which averages of other widths are reconstructed, as `ema@<width>`.
    """

    stored: list[str]
    basis: Basis = field(default_factory=Basis)

    def chosen(self, asked: str | None, option: str) -> str:
        """The name of weights asked for, or the first one; `ema@<width>` of an average that is stored is its name.

        Raises:
            BadInput: If there are none of that name; the message calls it `option`.
        """
        if asked is None:
            return self.stored[0]
        if asked in self.stored:
            return asked
        if (width := width_of(asked)) is None:
            widths = ", ema@<width>" if self.basis.widths else ""
            hint = closest(asked, self.stored)
            raise BadInput(f"{option}={asked}: unknown; {hint}allowed: {', '.join(self.stored)}{widths}.")
        self.basis.check(width, option)
        return self.basis.tracked(width) or name_of(width)


class EMA:
    """Named averages of a module's parameters, in float32, outside the module tree.

    Args:
        profiles: Name to profile; the first one is the default for evaluation.
        snapshots: Which averages by a power function are kept; None for none.
        folder: Where.

    Raises:
        ValueError: If a profile is named "raw", the name of the weights without averaging; if two have the same width;
            if there are snapshots but no average by a power function.
    """

    def __init__(
        self, profiles: Mapping[str, Profile], snapshots: Snapshots | None = None, folder: Path | None = None
    ) -> None:
        if RAW in profiles:
            raise ValueError(f"ema.profiles: '{RAW}' names the weights without averaging; choose another name.")
        self.profiles, self.snapshots, self.folder = dict(profiles), snapshots, folder
        self.widths = {name: p.sigma_rel for name, p in profiles.items() if isinstance(p, PowerFunction)}
        if len({*self.widths.values()}) < len(self.widths):
            raise ValueError("ema.profiles: two have the same sigma_rel; give another one, or leave one out.")
        if snapshots is not None and not self.widths:
            raise ValueError("ema.snapshots: no profile is a PowerFunction; give ema.snapshots=null.")
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.numbers: frozenset[str] = frozenset()  # names of parameters without axes, which have one where sharded

    def planned(self, images_seen: int, images: int) -> Names:
        """What can be asked for after a training of steps of `images` up to `images_seen`."""
        moments = self.snapshots.planned(images_seen - 1, images) if self.snapshots else []
        return Names([*self.profiles, RAW], Basis(images_seen, self.widths, moments))

    @torch.no_grad()
    def start(self, module: nn.Module) -> None:
        """Set each average, unless it was loaded, to the module's weights; move all to the module's device."""
        for name in self.profiles:
            stored = self.averages.get(name, {})
            self.averages[name] = {
                key: stored.get(key, parameter).detach().to(parameter.device, torch.float32, copy=True)
                for key, parameter in module.named_parameters()
            }

    def resume(self, images_seen: int) -> None:
        """Remove the snapshots of an interrupted training that are later than the checkpoint it goes on with."""
        if self.folder is not None and _writes():
            drop_after(self.folder, images_seen)

    @torch.no_grad()
    def update(self, module: nn.Module, images_seen: int, images: int) -> None:
        """Update each average after a step of `images` that ended at `images_seen`; write a snapshot that is due."""
        weights = [parameter.detach().float() for parameter in module.parameters()]
        for name, profile in self.profiles.items():
            average = list(self.averages[name].values())
            torch._foreach_lerp_(average, weights, 1 - profile.decay(images_seen, images))
        if self.snapshots and self.folder and self.snapshots.due(images_seen, images):
            averages = self._gathered(self.widths, kept=_writes())
            if _writes():
                self.snapshots.write(self.folder, averages, images_seen)

    def _gathered(self, names: Iterable[str], *, kept: bool = True) -> dict[str, dict[str, Tensor]]:
        """Averages as they are, or in a sharded training the whole of each on the CPU; all ranks ask together."""

        def gathered(key: str, tensor: Tensor) -> Tensor:
            if not is_sharded(tensor):
                return tensor
            full = whole(tensor).to("cpu" if kept else "meta")
            return full.reshape(()) if key in self.numbers else full

        return {name: {key: gathered(key, one) for key, one in self.averages[name].items()} for name in names}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Context in which each rank has whole averages, on the CPU where they were sharded."""
        own, self.averages = self.averages, self._gathered(self.averages)
        try:
            yield
        finally:
            self.averages = own

    def applied(self, module: nn.Module, name: str, images_seen: int = 0) -> AbstractContextManager[None]:
        """Context in which the module has the weights of that name at `images_seen`, or its own for "raw"."""
        if name == RAW:
            return nullcontext()
        return applied(module, basis(images_seen, self.widths, self.folder).weights(name, self.averages))


def _writes() -> bool:
    """Whether this process writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def applied(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which the module's parameters are `weights`; its own are restored at the end and on errors."""
    own = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    _copy_into(module, weights)
    try:
        yield
    finally:
        _copy_into(module, own)


@torch.no_grad()
def _copy_into(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for key, parameter in module.named_parameters():
        parameter.copy_(weights[key])
