"""Autoguidance by a model that is read from a run or a checkpoint file."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch

from denoiselab.denoiser import Denoiser
from denoiselab.errors import BadInput
from denoiselab.from_config import identity
from denoiselab.guidance import Auto
from denoiselab.guidance.branches import Branches, WithGuide
from denoiselab.model import digest
from denoiselab.networks.conditioning import Conditioning
from denoiselab.pretrained import Loaded, read
from denoiselab.samplers import Tally
from denoiselab.training.checkpoint_files import newest


@dataclass(frozen=True)
class AutoGuide(Auto):
    """Autoguidance by a weaker model: an earlier checkpoint, a smaller network, another average of the weights.

    m = m_guide + scale (m - m_guide), of the same condition; scale 1 is the model, 0 the guide. A guide without
    conditions is the unconditional model of EDM2's guidance.

    Source: Karras et al., Guiding a Diffusion Model with a Bad Version of Itself, arXiv 2406.02507, eq. 2.

    Args:
        model: Run directory or checkpoint file of the guide; None for the model's own, with other weights.
        weights: Name of an average of the guide, "ema@0.15", or "raw"; None for the first average.

    Raises:
        ValueError: If the file or the weights cannot be used.
    """

    guide: Denoiser = field(init=False, repr=False, compare=False)
    named: str = field(init=False, repr=False, compare=False, default="")
    model: str | None = field(default=None, kw_only=True, repr=False)
    weights: str | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None:
            object.__setattr__(self, "guide", self.loaded.model.denoiser)

    def of(self, path: Path) -> AutoGuide:
        """The same, with the guide in that file."""
        return replace(self, model=str(path))

    @property
    def loaded(self) -> Loaded:
        """The guide's model, with the weights that guide."""
        return self._read[0]

    @property
    def place(self) -> tuple[Path, str]:
        """The guide's file, and the name of its weights."""
        return self._read[1:]

    @property
    def facts(self) -> dict[str, Any]:
        own = super().facts
        if self.model is None:
            return own
        path, weights = self.place
        return {**own, "guide": {**_hashes(path, path.stat().st_mtime_ns, weights), "weights": weights}}

    @property
    def _read(self) -> tuple[Loaded, Path, str]:
        assert self.model is not None
        path, warning = newest(Path(self.model).expanduser(), "guider.model")
        if warning:
            warnings.warn(warning, stacklevel=2)
        if not path.exists():
            raise BadInput(f"guider.model={self.model}: no such run directory or checkpoint file.")
        return _read(path.resolve(), path.stat().st_mtime_ns, self.weights)

    def branches(self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, tally: Tally) -> Branches:
        if self.model is None:
            raise BadInput("guider.model: is not given; name a run directory or a checkpoint file.")
        guide, device = self.guide, next(chain(denoiser.parameters(), denoiser.buffers())).device
        if _equal(denoiser, guide):
            raise BadInput(
                f"guider.model={self.model}: the guide has the model's own weights; name another model, or others by "
                "guider.weights."
            )
        own = cond if self.loaded.model.conditioner.names else Conditioning()
        return WithGuide(denoiser, guide.to(device), cond, tally, own)


def _equal(one: Denoiser, other: Denoiser) -> bool:
    """Whether all weights are equal; it ends at the first that is not."""
    pairs = zip_longest(one.parameters(), other.parameters())
    return all(a is not None and b is not None and torch.equal(a, b.to(a)) for a, b in pairs)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, weights: str | None) -> tuple[Loaded, Path, str]:
    """The guide of a file, which is read once; `changed` is the time of its last change."""
    try:
        loaded = read(path)
        name = loaded.use(weights)
    except BadInput as error:
        raise BadInput(str(error).replace("ckpt=", "guider.model=").replace("weights=", "guider.weights=")) from None
    loaded.model.denoiser.requires_grad_(False)
    return loaded, path, name


@functools.lru_cache(maxsize=8)
def _hashes(path: Path, changed: int, weights: str) -> dict[str, str]:
    loaded, *_ = _read(path, changed, weights)
    return {"model_sha256": identity(loaded.config), "weights_sha256": digest(loaded.model.denoiser)}
