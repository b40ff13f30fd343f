"""The frontier: every sampler at every number of network calls, scored on shared noise."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab import progress
from denoiselab.conditioners.label import Conditioner
from denoiselab.denoiser import Denoiser
from denoiselab.evaluation import report
from denoiselab.evaluation.media import medium
from denoiselab.evaluation.scorer import Scorer, Statistics
from denoiselab.guidance import bind
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import OnStep, Sampler, count_calls
from denoiselab.schedules import Schedule


class Frontier:
    """Scores cells (sampler, NFE) by a distance to a reference; each cell is stored at once.

    Args:
        samplers: Name to sampler.
        schedule: Along which they sample.
        nfe: Budgets of network calls; a sampler that cannot spend one exactly uses the most it can below it. One that
            chooses its own steps has one cell, at the mean of the calls that its samples took.
        extra_nfe: Further budgets of single samplers, by name; names not among `samplers` are passed over.
        num_samples: Samples a cell, the same for all.
        batch_size: Samples a network call; it does not change them.
        seed: Sample i is a function of (seed, i).

    Raises:
        ValueError: No sampler, no budget, a budget too small for a sampler, or a number out of range.
    """

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        schedule: Schedule,
        nfe: Sequence[int],
        extra_nfe: Mapping[str, Sequence[int]],
        num_samples: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if not samplers:
            raise ValueError("evaluation.samplers=[]: name at least one sampler.")
        if num_samples < 2:
            raise ValueError(f"evaluation.num_samples={num_samples}: a covariance takes at least 2.")
        if batch_size < 1:
            raise ValueError(f"evaluation.batch_size={batch_size}: it must be at least 1.")
        self.samplers, self.num_samples, self.batch_size, self.seed = samplers, num_samples, batch_size, seed
        self.cells: list[tuple[str, int]] = []  # (sampler, steps), each once
        self.inexact: list[tuple[str, int, int]] = []  # (sampler, budget, NFE) where they differ
        self._calls: list[int] = []  # of each cell; 1 where they are not known before
        for name, sampler in samplers.items():
            if sampler.adaptive:
                self.cells.append((name, sampler.steps))
                self._calls.append(1)
                continue
            for budget in sorted({*nfe, *extra_nfe.get(name, ())}):
                try:
                    steps = sampler.steps_for(budget, schedule)
                    spends = sampler.nfe(steps, schedule)
                except ValueError as error:
                    raise ValueError(f"evaluation.nfe: sampler {name}: {error}") from None
                if spends != budget:
                    self.inexact.append((name, budget, spends))
                if (name, steps) not in self.cells:
                    self.cells.append((name, steps))
                    self._calls.append(spends)
        if not self.cells:
            raise ValueError("evaluation.nfe=[]: name at least one budget of network calls.")

    def run(
        self,
        denoiser: Denoiser,
        conditioner: Conditioner,
        shape: Sequence[int],
        scorer: Scorer[Any],
        reference: Statistics,
        directory: Path,
        protocol: Mapping[str, Any],
        settings: Mapping[str, Any],
        check: Callable[[object], None],
        check_cell: Callable[[], None] = lambda: None,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[dict[str, Any]]:
        """Score all cells that are not stored yet, and write `frontier.csv`, `.json`, `.png` and `samples/*.png`.

        The files keep the cells of former calls; the pictures and the result leave out those of other protocols.

        Args:
            denoiser: With the weights to be scored applied.
            conditioner: Gives samples their conditioning.
            shape: Of one sample.
            scorer: Measures the distance.
            reference: That scorer's statistics of the data.
            directory: Where to write; finished cells found there under the same protocol are kept.
            protocol: What a score depends on beside the cell: weights, data, versions.
            settings: The configuration of each sampler, by name.
            check: Called between sampling steps; what it raises stops the run.
            check_cell: Called after each cell, by all ranks together.
            notes: What else a record says; it does not tell cells apart.

        Returns:
            A record a cell.
        """
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        path = directory / "frontier.json"
        stored = {r["cell"]: r for r in json.loads(path.read_text())} if path.is_file() else {}
        common = {
            **protocol,
            "metric": scorer.metric,
            "n": self.num_samples,
            "seed": self.seed,
            "extractor": scorer.name,
            "extractor_sha256": scorer.fingerprint,
            "reference_n": int(reference.n),
            "reference_sha256": reference.fingerprint,
            "dtype": "float32",
            "guidance": None,
        }
        kind = medium(shape)
        records = []
        bar = progress.bar("frontier", sum(self._calls) * self.num_samples, shown=rank == 0)
        with bar:
            for (name, steps), nfe in zip(self.cells, self._calls, strict=True):
                sampler = self.samplers[name]
                cell = {**common, "sampler": name, "settings": {**settings[name], "steps": steps}}
                key = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()
                bar.set_postfix(sampler=name, nfe=nfe, refresh=False)
                if key in stored and report.picture_of(directory, stored[key]).is_file():
                    bar.update(self.num_samples * nfe)
                    records.append(stored[key])
                    continue
                start = time.perf_counter()
                statistics = scorer.statistics()
                first: list[Tensor] = []
                spent = torch.zeros(2, dtype=torch.float64)  # calls and network evaluations, summed over samples
                batches = self._batches(sampler, steps, denoiser, conditioner, shape, rank, world, check)
                for samples, counted in batches:
                    statistics.update(samples)
                    spent += torch.tensor([counted.rows, counted.evaluated_rows])
                    if sum(map(len, first)) < kind.shown:
                        first.append(samples.cpu())
                    bar.update(len(samples) * world * nfe)
                device = next(denoiser.parameters()).device
                statistics.reduce(device)
                calls, evaluations = _per_sample(spent.to(device), self.num_samples)
                seconds = time.perf_counter() - start
                record = {
                    "sampler": name,
                    "nfe": calls,
                    "steps": steps,
                    "score": scorer.distance(statistics, reference),
                    "seconds": round(seconds, 3),
                    "network_evaluations": evaluations,
                    "seconds_per_1k_images": round(seconds / self.num_samples * 1000, 3),
                    **cell,
                    **notes,
                    "cell": key,
                }
                assert int(statistics.n) == self.num_samples
                records.append(record)
                if rank == 0:
                    kind.write_cell(report.picture_of(directory, record), torch.cat(first)[: kind.shown])
                    report.write_records(directory, [*{**stored, **{r["cell"]: r for r in records}}.values()])
                check_cell()
        # What was scored before under the same protocol belongs to the picture too.
        fresh = {(r["sampler"], r["nfe"]) for r in records}
        shown = records + [
            record
            for record in stored.values()
            if (record["sampler"], record["nfe"]) not in fresh
            and report.picture_of(directory, record).is_file()
            and all(record.get(name) == value for name, value in common.items())
        ]
        if rank == 0:
            report.write_records(directory, [*{**stored, **{r["cell"]: r for r in records}}.values()])
            report.write_pictures(directory, shown, kind.write_sheet)
        return shown

    def _batches(
        self,
        sampler: Sampler,
        steps: int,
        denoiser: Denoiser,
        conditioner: Conditioner,
        shape: Sequence[int],
        rank: int,
        world: int,
        check: Callable[[object], None],
    ) -> Iterator[tuple[Tensor, count_calls]]:
        """Yield (stored samples, counted calls) for this rank's share of indices; each falls to exactly one rank."""
        device = next(denoiser.parameters()).device
        share = torch.arange(rank * self.num_samples // world, (rank + 1) * self.num_samples // world, device=device)
        for index in share.split(self.batch_size):
            yield draw(sampler, denoiser, conditioner, shape, index, self.seed, steps, check)


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    conditioner: Conditioner,
    shape: Sequence[int],
    index: Tensor,
    seed: int,
    steps: int,
    on_step: OnStep,
    guidance: float = 1.0,
) -> tuple[Tensor, count_calls]:
    """Samples `index` `(B,)` of `seed` as they are stored, `(B, *shape)`, and the count of their network calls.

    Raises:
        ValueError: A sample is not finite, or there is nothing to guide.
    """
    counted = count_calls(bind(denoiser, conditioner.sample(index), conditioner.null(index), guidance))
    x = sampler(counted, denoiser.schedule, shape, Noise(seed, index, SAMPLING), steps=steps, on_step=on_step)
    bad = ~x.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        first = int(index[bad][0])
        raise ValueError(f"sample {first} of {type(sampler).__name__} at {counted.calls} NFE is not finite.")
    return medium(shape).to_stored(x), counted


def _per_sample(total: Tensor, samples: int) -> list[float]:
    """Means over the samples of all ranks, of which each summed its own; whole numbers where they are."""
    if dist.is_initialized():
        dist.all_reduce(total)
    return [int(mean) if mean.is_integer() else round(mean, 2) for mean in (total / samples).tolist()]
