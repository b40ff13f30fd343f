"""Samples of cells and of fine runs from the same x_T: their features, their paths, and files that keep both."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from denoiselab import progress
from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.contracts import Scorer
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.evaluation.verdicts.error_split import interpolated
from denoiselab.files import drop_sum, matches_sum, replacing, write_sum
from denoiselab.model import Drawing
from denoiselab.samplers import Moment

# Levels of a fine run at which its states are kept, and samples whose states are kept: at most so many numbers.
_KNOTS, _PATHS, _NUMBERS = 48, 64, 2**25


@dataclass(frozen=True)
class Drawn:
    """The first m samples of a cell.

    Args:
        features: `(m, D)` float32.
        images: As they are stored, `(m, *)`.
        lam: Half log-SNR of each state of the path, `(k,)` float64; infinity at clean data. Empty for an adaptive
            sampler, whose levels differ between samples.
        states: `(k, p, *)` float32, of the first p samples, each over sqrt(alpha^2 + sigma^2) of its level.
    """

    features: Tensor
    images: Tensor
    lam: Tensor
    states: Tensor

    def deviations(self, fine: Drawn) -> list[tuple[float, float]]:
        """(lam, root mean squared difference of the states from those of a fine run there), along the path.

        Levels outside the fine run's are left out.
        """
        known = fine.lam.isfinite()
        knots, at_knots = fine.lam[known], fine.states[known]
        if len(knots) < 4 or not len(self.lam):
            return []
        within = (self.lam >= knots[0]) & (self.lam <= knots[-1])
        pairs = [(self.lam[within], self.states[within], interpolated(knots, at_knots, self.lam[within]))]
        if bool(self.lam[-1].isinf()) and bool(fine.lam[-1].isinf()):
            pairs.append((self.lam[-1:], self.states[-1:], fine.states[-1:]))
        return [
            (float(lam), float((own - other).square().mean().sqrt()))
            for lams, owns, others in pairs
            for lam, own, other in zip(lams, owns, others, strict=True)
        ]


class _Path:
    """An `on_step` that keeps states of some samples of a batch on their device, without waiting for it.

    Args:
        rows: Number of first samples of the batch whose states are kept.
        most: States kept, besides the last two; None for all.
        then: Called with the moment too.
    """

    def __init__(self, rows: int, most: int | None, then: Callable[[Moment], object]) -> None:
        self._rows, self._most, self._then = rows, most, then
        self.lam: list[float] = []
        self.states: list[Tensor] = []

    def __call__(self, moment: Moment) -> None:
        self._then(moment)
        every = 1 if self._most is None else -(-moment.steps // self._most)
        if moment.level.sigma.ndim or (moment.number % every and moment.number < moment.steps - 1):
            return
        alpha, sigma = float(moment.level.alpha), float(moment.level.sigma)
        self.lam.append(math.log(alpha / sigma) if alpha and sigma else math.inf if alpha else -math.inf)
        self.states.append(moment.x[: self._rows].float() / math.hypot(alpha, sigma))


@dataclass(frozen=True)
class Draws:
    """Draws the first samples of cells of one model.

    Args:
        subject: The model.
        scorer: Has the features (`features_of`).
        count: Number of samples.
        batch_size: Samples a network call.
        check: Called between sampling steps; an exception stops the run.
        bar: Counts network calls, summed over samples.
    """

    subject: Subject
    scorer: Scorer[Any, Any]
    count: int
    batch_size: int
    check: Callable[[object], None]
    bar: Any

    @torch.no_grad()
    def __call__(self, drawing: Drawing, calls: int, *, fine: bool = False) -> Drawn:
        """The samples of all ranks, on every rank.

        Args:
            drawing: Of the cell.
            calls: Of a sample, for the bar.
            fine: Keep the states at a number of levels only, from which `Drawn.deviations` interpolates.
        """
        model = self.subject.model
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        share = range(rank * self.count // world, (rank + 1) * self.count // world)
        kept = min(_PATHS, max(1, _NUMBERS // (_KNOTS * math.prod(model.shape))))
        own: list[tuple[Tensor, Tensor, Tensor | None]] = []
        lam: list[float] = []
        for index in torch.arange(share.start, share.stop, device=model.device).split(self.batch_size):
            steps = progress.Steps(self.bar, len(index) * world * calls, self.check)
            rows = 0 if drawing.sampler.adaptive else max(0, min(len(index), kept - int(index[0])))
            path = _Path(rows, _KNOTS if fine else None, steps)
            samples, _ = model.draw(index, drawing, path if rows else steps)
            steps.finish()
            states = torch.stack(path.states, 1).cpu() if path.states else None
            own.append((features_of(self.scorer, samples).float().cpu(), samples.cpu(), states))
            lam = path.lam or lam
        ranks = [(own, lam)] * world
        if dist.is_initialized():
            dist.all_gather_object(ranks, (own, lam))
        parts = [part for batches, _ in ranks for part in batches]
        paths = [states for *_, states in parts if states is not None]
        return Drawn(
            torch.cat([features for features, *_ in parts]),
            torch.cat([images for _, images, _ in parts]),
            torch.tensor(next((found for _, found in ranks if found), []), dtype=torch.float64),
            torch.cat(paths).transpose(0, 1) if paths else torch.empty(0),
        )


def features_of(scorer: Scorer[Any, Any], samples: Tensor) -> Tensor:
    """Features `(B, D)` of stored samples.

    Raises:
        ValueError: If the scorer has none.
    """
    features = getattr(scorer, "features", None)
    if features is None:
        raise ValueError(f"error_split: the extractor {scorer.name} has no features to measure distances in.")
    out: Tensor = features(samples)
    return out


def kept(path: Path, of: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that are made once: from a file whose checksum and protocol are right, else made and written.

    Args:
        path: Of the file.
        of: All that the tensors depend on.
        make: Makes them, on all ranks together.
    """

    def stored() -> dict[str, Tensor] | None:
        unusable = (FileNotFoundError, SafetensorError, KeyError, ValueError)
        with contextlib.suppress(*unusable), safe_open(path, framework="pt") as file:
            if json.loads(file.metadata()["of"]) == of and matches_sum(path):
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return None

    found = on_first_rank(stored)
    if found is None:
        found = make()
        if not dist.is_initialized() or dist.get_rank() == 0:
            drop_sum(path)
            with replacing(path) as temporary:
                save_file({name: t.contiguous() for name, t in found.items()}, temporary, {"of": json.dumps(of)})
            write_sum(path)
    return found
