"""Which part of each cell's error is the solver's and which the model's: cells against fine runs from the same x_T."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab import progress
from denoiselab.cleaning import path_part
from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.contracts import Influences, Measure
from denoiselab.evaluation.fine_runs import Drawn, Draws, kept
from denoiselab.evaluation.frontier import Frontier
from denoiselab.evaluation.plans import Control
from denoiselab.evaluation.records import Record
from denoiselab.evaluation.score_parts import finished_group
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.verdicts.error_split import squares, worst
from denoiselab.files import write_text
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing

# The result, and the folder of its fine runs and pictures, beside `frontier.json`.
FILE, FOLDER = "error_split.json", "error_split"

_STOCHASTIC = "its path is not that of the ODE: the distance to a fine run measures diversity, not error"
_ANOTHER = "it does not converge to the solution of the model's own ODE"


@dataclass(frozen=True)
class ErrorSplit:
    """Measures how far the samples of ODE solvers are from fine solutions of the ODE, and splits their scores.

    It draws `count` samples of every cell of an ODE solver and of both fine runs once more; the fine runs must have
    been scored as cells before.

    Args:
        frontier: The cells.
        fine: Two samplers at one budget: the first is the reference, the second measures its error.
        count: Number of samples.
        store: Of the frontier's cells.
    """

    frontier: Frontier
    fine: Frontier
    count: int
    store: Store

    def run(
        self,
        subject: Subject,
        measure: Measure,
        records: Sequence[Record],
        fine_records: Sequence[Record],
        control: Control = Control(),
    ) -> dict[str, Any]:
        """Measure the cells that are not measured yet; returns the content of `error_split.json`, which it writes.

        Args:
            subject: The model.
            measure: By which the cells were scored.
            records: Of the frontier.
            fine_records: Of the fine runs.
            control: Interruption and progress.

        Raises:
            ValueError: If the scorer has no features.
        """
        frontier, groups = self.frontier, []
        total = len(frontier.weights) * len(frontier.guidance) * self._calls() * self.count
        leader = not dist.is_initialized() or dist.get_rank() == 0
        with progress.bar("error split", total, unit="call", shown=control.shown and leader) as bar:
            draws = Draws(subject, measure.scorer, self.count, frontier.batch_size, control.check, bar)
            for weights in frontier.weights:
                with subject.applied(weights):
                    for guidance in frontier.guidance:
                        of = {"weights": weights, **guidance.facts}
                        fine = [_record(fine_records, of, *cell) for cell in self.fine.cells]
                        if any(record is None or record["score"] is None for record in fine):
                            continue  # a fine run failed; its record says why
                        groups.append(self._group(draws, of, records, [r for r in fine if r is not None], leader))
                        control.check_cell()
        out = {"format": 1, "samples": self.count, "groups": _merged(self.store.directory / FILE, groups)}
        if leader:
            with self.store.writing():
                write_text(self.store.directory / FILE, json.dumps(out, indent=1, allow_nan=False))
        return out

    def _calls(self) -> int:
        """Network calls of a sample, over all cells of ODE solvers and fine runs."""
        cells = zip(self.frontier.cells, self.frontier.calls, strict=True)
        return sum(calls for (name, _), calls in cells if self.frontier.samplers[name].follows_ode) + sum(
            self.fine.calls
        )

    def _group(
        self, draws: Draws, of: Mapping[str, Any], records: Sequence[Record], fine: Sequence[Record], leader: bool
    ) -> dict[str, Any]:
        """The split of the cells of one set of weights and one guidance scale."""
        ends = [self._ends(draws, record) for record in fine]
        entries, squared = [], {}
        own = self._of_fine(draws, fine[1], ends)
        for record in self._cells(records, of):
            sampler = self.frontier.samplers[record["sampler"]]
            entry: dict[str, Any] = {}
            if sampler.follows_ode:
                drawn = self._measured(draws, record, fine, ends, leader)
                squared[record["cell"]] = drawn["squares"]
                entry |= {"by_level": _rounded(drawn["by_level"]), "worst": drawn["worst"].tolist()}
                entry["picture"] = str(self._picture(record).relative_to(self.store.directory))
            else:
                entry["reason"] = _STOCHASTIC if sampler.stochastic else _ANOTHER
            entries.append((entry, record))
        group = finished_group(entries, squared, fine, own["squares"][0], self._influences)
        return {**of, **group, "fine_by_level": _rounded(own["by_level"])}

    def _cells(self, records: Sequence[Record], of: Mapping[str, Any]) -> Iterator[Record]:
        for name, steps in self.frontier.cells:
            record = _record(records, of, name, steps)
            if record is not None and record["score"] is not None:
                yield record

    def _ends(self, draws: Draws, record: Record) -> Drawn:
        """The samples of a fine run, drawn once a model."""
        name, steps = record["sampler"], record["steps"]

        def make() -> dict[str, Tensor]:
            drawing = Drawing(
                self.fine.samplers[name], self.fine.seed, steps, self._guidance(record), steer=draws.subject.steer
            )
            return vars(draws(drawing, self.fine.calls[self.fine.cells.index((name, steps))], fine=True))

        path = self._folder / f"fine_{path_part(name)}_{record['cell'][:16]}.safetensors"
        return Drawn(**kept(path, {"cell": record["cell"], "samples": self.count}, make))

    def _guidance(self, record: Record) -> Guidance:
        return next(one for one in self.frontier.guidance if one.made(record))

    def _of_fine(self, draws: Draws, record: Record, ends: Sequence[Drawn]) -> dict[str, Tensor]:
        first, second = ends
        return {
            "squares": squares(second.features, first.features)[None],
            "by_level": torch.tensor(second.deviations(first), dtype=torch.float64),
        }

    def _measured(
        self, draws: Draws, record: Record, fine: Sequence[Record], ends: Sequence[Drawn], leader: bool
    ) -> dict[str, Tensor]:
        """Distances of a cell's samples to those of the fine runs, drawn once a cell; the worst ones as a picture."""
        name, steps = record["sampler"], record["steps"]
        calls = self.frontier.calls[self.frontier.cells.index((name, steps))]

        def make() -> dict[str, Tensor]:
            drawing = Drawing(
                self.frontier.samplers[name],
                self.frontier.seed,
                steps,
                self._guidance(record),
                steer=draws.subject.steer,
            )
            drawn = draws(drawing, calls)
            squared = torch.stack([squares(drawn.features, end.features) for end in ends])
            far = worst(squared[0])
            if leader:
                with self.store.writing():
                    kind = medium(draws.subject.model.codec.shape)
                    kind.write_pairs(self._picture(record), ends[0].images[far], drawn.images[far])
            levels = torch.tensor(drawn.deviations(ends[0]), dtype=torch.float64)
            return {"squares": squared, "by_level": levels.reshape(-1, 2), "worst": far}

        path = self._folder / f"cell_{path_part(name)}_{record['cell'][:16]}.safetensors"
        of = {"cell": record["cell"], "samples": self.count, "fine": [one["cell"] for one in fine]}
        return kept(path, of, make)

    def _influences(self, record: Record) -> Mapping[str, Influences]:
        """Those of a cell, or of a fine run."""
        return self.store.influences(record) or Store(self._folder).influences(record)

    @property
    def _folder(self) -> Path:
        return self.store.directory / FOLDER

    def _picture(self, record: Record) -> Path:
        """Where the picture of a cell's worst samples is: each beside that of the fine run."""
        return self._folder / "worst" / self.store.picture(record).name


def read(directory: Path) -> dict[str, Any] | None:
    """The content of `error_split.json` of a directory; None if there is none, or it is damaged."""
    try:
        content = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return content if content["format"] == 1 and isinstance(content["groups"], list) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _record(records: Sequence[Record], of: Mapping[str, Any], name: str, steps: int) -> Record | None:
    """The first record of a cell; later ones are of other runs."""
    wanted = {"guider": None, **of, "sampler": name, "steps": steps}
    return next((r for r in records if all(r.get(key) == value for key, value in wanted.items())), None)


def _merged(path: Path, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, then those of the file that have other fine runs."""
    former = (read(path.parent) or {"groups": []})["groups"]
    fresh = [[one["cell"] for one in group["fine"]] for group in groups]
    return [*groups, *(group for group in former if [one["cell"] for one in group["fine"]] not in fresh)]


def _rounded(levels: Tensor) -> list[list[float | None]]:
    """(lam, deviation) with 4 digits; lam is None at clean data."""
    return [[None if lam == float("inf") else round(lam, 4), float(f"{d:.4g}")] for lam, d in levels.tolist()]
