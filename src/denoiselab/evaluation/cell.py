"""One cell of the frontier: its samples, their score and their cost."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab import progress
from denoiselab.evaluation.contracts import Growing, Measure, Score, Scorer, Statistics
from denoiselab.evaluation.cost import Stopwatch, cost_of_call
from denoiselab.evaluation.drawn import Drawn
from denoiselab.evaluation.memory import PeakMemory, device_name
from denoiselab.evaluation.ranks import REFUSALS
from denoiselab.evaluation.records import Record
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing, Model, NotFinite, Steer
from denoiselab.samplers import DDIM, Sampler
from denoiselab.samplers.observers import mean_count
from denoiselab.samplers.spacing import UniformTime


class Subject(NamedTuple):
    """A model to be scored.

    Attributes:
        model: On the device of the sampling.
        applied: Takes a name of weights; within its context the denoiser has them.
        steer: Further guidance of the denoiser, as by a classifier; None for none.
        learn: Measures what a sampler needs of the model; its result is part of the protocol of that sampler's cells.
    """

    model: Model
    applied: Callable[[str], AbstractContextManager[None]]
    steer: Steer | None = None
    learn: Callable[[Sampler], Mapping[str, Any]] = lambda sampler: {}

    @property
    def strata(self) -> int:
        """Sample i has the condition, or the class of further guidance, of sample i mod strata."""
        return int(getattr(self.steer, "strata", self.model.conditioner.strata))

    def classes(self, index: Tensor) -> Tensor | None:
        """The classes `(B,)` int64 on the CPU of samples `index` `(B,)`; None where samples have none."""
        own = getattr(self.steer, "classes", self.model.conditioner.classes_of)(index)
        return None if own is None else own.cpu()

    def statistics(self, scorer: Scorer[Any, Any], start: int) -> Statistics:
        """A scorer's empty statistics of samples from index `start` on."""
        of: dict[str, Any] = {"classes": self.classes} if getattr(scorer, "reads_classes", False) else {}
        if getattr(scorer, "reads_pictures", False):
            of["pictures"] = self.model.conditioner.pictures
        if getattr(scorer, "reads_texts", False):
            own = self.model.conditioner
            of["texts"] = own.described if own.names & {"tokens", "vector"} else None
        return cast(Statistics, scorer.statistics(start, self.strata, **of))


class FeatureWriteError(OSError):
    """Features could not be written to disk on at least one rank; raised on all ranks."""


class _Share(NamedTuple):
    """What a rank did for a cell."""

    counts: Mapping[str, int] = {}  # of `Tally`, summed over its samples
    memory: float = 0.0
    failure: tuple[int, str] | None = None  # index of the sample, and what is wrong
    full: str | None = None  # why features could not be written
    stop: SystemExit | None = None


@dataclass(frozen=True)
class Scoring:
    """Scores cells of one model against one reference.

    Args:
        subject: The model.
        measure: Scores it.
        num_samples: Samples a cell, over all ranks.
        batch_size: Samples a network call.
        seed: Sample i is a function of (seed, i).
        check: Called between sampling steps; an exception stops the run.
        bar: Counts network calls, summed over samples.
        first: Index of the first sample.
    """

    subject: Subject
    measure: Measure
    num_samples: int
    batch_size: int
    seed: int
    check: Callable[[object], None]
    bar: Any
    first: int = 0
    _calls: dict[object, dict[str, Any]] = field(default_factory=dict, init=False)  # cost, by kind of guidance

    def __call__(
        self, guidance: Guidance, sampler: Sampler, steps: int, calls: int, before: Drawn | None = None
    ) -> Drawn:
        """A cell, of which some samples may have been drawn before.

        Seconds are wall-clock time of sampling and features on all `devices` together, after a warm-up that loads
        libraries, chooses kernels and moves weights.

        Args:
            guidance: Scale and rule.
            sampler: Of the cell.
            steps: Of the cell.
            calls: Of each sample, if known before; else 1.
            before: The cell so far, to whose samples those up to `num_samples` are added; the result has a state of the
                statistics then. None if all are drawn at once.

        Raises:
            FeatureWriteError: If a disk is full.
        """
        device, former = self.subject.model.device, before or Drawn()
        share = self._share(former.n)
        kind = guidance.scale if guidance.scale in (0, 1) else None, guidance.guider
        if kind not in self._calls:
            self._calls[kind] = self._warm_up(share, guidance)
        watch = Stopwatch(device, self._calls[kind])
        memory, start = PeakMemory(device), time.perf_counter()
        start_at = share.start - former.n if former.statistics else share.start
        statistics = self.subject.statistics(self.measure.scorer, start_at)
        if former.statistics:
            cast(Growing, statistics).load(former.statistics)
        drawing = Drawing(sampler, self.seed, steps, guidance, steer=self.subject.steer)
        mine, first = self._draw(share, statistics, drawing, calls, watch)
        shares = _gathered(mine._replace(memory=memory.megabytes()))
        failed = min((share.failure for share in shares if share.failure is not None), default=None)
        counts = _summed(former.counts, *(one.counts for one in shares))
        spent: dict[str, Any] = {"nfe": calls, "network_evaluations": None}
        if failed is None:
            with _writing():
                statistics.reduce(device)
            assert statistics.n == self.num_samples
            spent |= {name: mean_count(count, self.num_samples) for name, count in counts.items()}
        seconds = time.perf_counter() - start + former.record.get("seconds", 0.0)
        scores, error = self._scores(statistics) if failed is None else ({}, failed[1])
        record = {
            **spent,
            "steps": steps,
            **self._measured(scores, error),
            "seconds": round(seconds, 3),
            "seconds_per_1k_images": None if failed else round(seconds / self.num_samples * 1000, 3),
            **({} if failed else watch.record(steps, spent)),
            "peak_memory_mb": round(max(share.memory for share in shares), 1),
            "device": device.type,
            "device_name": device_name(device),
            "devices": len(shares),
            "shape": list(self.subject.model.codec.shape),
        }
        kept = {metric: score.influences for metric, score in scores.items() if score.influences is not None}
        state = statistics.state() if before is not None and not error and isinstance(statistics, Growing) else {}
        return Drawn(self.num_samples, record, counts, kept, former.first if former.n else first, state)

    def _share(self, drawn: int) -> range:
        """This rank's indices, of those from the number of samples that are drawn."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        left, start = self.num_samples - drawn, self.first + drawn
        return range(start + rank * left // world, start + (rank + 1) * left // world)

    def _warm_up(self, share: range, guidance: Guidance) -> dict[str, Any]:
        """Draw and measure a batch of each size in one step, drop it, and return the cost of a call.

        Errors are left to the cell itself.
        """
        device = self.subject.model.device
        batches = torch.arange(share.start, share.stop, device=device).split(self.batch_size)
        drawing = Drawing(DDIM(UniformTime(), 1), self.seed, 1, guidance, steer=self.subject.steer)
        dropped = self.subject.statistics(self.measure.scorer, share.start)
        for index in {len(index): index for index in batches}.values():
            with contextlib.suppress(ValueError, OSError):
                dropped.update(self.subject.model.draw(index, drawing, lambda moment: None)[0])
        cost: dict[str, Any] = {}
        if share:
            with contextlib.suppress(ValueError):
                cost = cost_of_call(self.subject.model, batches[0], guidance, self.subject.steer)
        if dist.is_initialized():
            dist.barrier()  # else the seconds of the first rank would include the others' warm-up
        return cost

    def _draw(
        self, share: range, statistics: Statistics, drawing: Drawing, calls: int, watch: Stopwatch
    ) -> tuple[_Share, Tensor]:
        """Add this rank's share of the samples to `statistics`."""
        world = dist.get_world_size() if dist.is_initialized() else 1
        model = self.subject.model
        first: list[Tensor] = []
        to_show = medium(model.codec.shape).shown
        done = Counter[str]()
        for index in torch.arange(share.start, share.stop, device=model.device).split(self.batch_size):
            on_step = progress.Steps(self.bar, len(index) * world * calls, self.check)
            try:
                samples, tally = watch.draw(model, index, drawing, on_step)
                self._update(statistics, samples, index)
            except NotFinite as failure:
                return _Share(failure=(failure.index, str(failure))), torch.empty(0)
            except FeatureWriteError as full:  # to be raised on all ranks
                return _Share(full=str(full)), torch.empty(0)
            except SystemExit as stop:  # likewise
                return _Share(stop=stop), torch.empty(0)
            done.update(tally.counts)
            if to_show:
                first.append(samples[:to_show].cpu())
                to_show -= len(first[-1])
            on_step.finish()
        return _Share(done), torch.cat(first) if first else torch.empty(0)

    def _update(self, statistics: Statistics, samples: Tensor, index: Tensor) -> None:
        """Add samples.

        Raises:
            NotFinite: If the scorer refuses one; it names the first one.
            FeatureWriteError: If the disk is full.
        """
        try:
            with _writing():
                statistics.update(samples)
        except ValueError:
            for number, sample in zip(index.tolist(), samples.split(1), strict=True):
                try:
                    self.measure.scorer.statistics().update(sample)
                except ValueError as error:
                    raise NotFinite(number, f"sample {number}: {error}") from None
            raise

    def _scores(self, statistics: Statistics) -> tuple[dict[str, Score], str | None]:
        """The scores, or why there are none."""
        try:
            scores = self.measure.scorer.scores(statistics, self.measure.reference)
        except REFUSALS as refusal:
            return {}, str(refusal)
        value = scores[self.measure.scorer.metric].value
        return scores, None if math.isfinite(value) else f"{self.measure.scorer.metric} is {value}."

    def _measured(self, scores: Mapping[str, Score], error: str | None) -> Record:
        primary = Score(math.nan) if error else scores[self.measure.scorer.metric]
        return {
            "score": _finite(primary.value),
            "standard_error": _finite(primary.standard_error),
            "scores": {} if error else {metric: self._plain(metric, score) for metric, score in scores.items()},
            "error": error,
        }

    def _plain(self, metric: str, score: Score) -> dict[str, Any]:
        return {
            "value": _finite(score.value),
            "standard_error": _finite(score.standard_error),
            "lower_is_better": self.measure.scorer.lower_is_better[metric],
            **({} if score.reason is None else {"reason": score.reason}),
        }


def _summed(*counts: Mapping[str, int]) -> dict[str, int]:
    total = Counter[str]()
    for one in counts:
        total.update(one)
    return dict(total)


def _gathered(mine: _Share) -> list[_Share]:
    """The shares of all ranks.

    Raises:
        FeatureWriteError: If a rank could not write features.
    """
    shares = [mine]
    if dist.is_initialized():
        shares *= dist.get_world_size()
        dist.all_gather_object(shares, mine)
    for share in shares:
        if share.stop is not None:
            raise share.stop
        if share.full is not None:
            raise FeatureWriteError(share.full)
    return shares


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FeatureWriteError(error.strerror or str(error)) from error


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
