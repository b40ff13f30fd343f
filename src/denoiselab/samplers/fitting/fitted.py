"""A sampler whose numbers are those of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from denoiselab.errors import BadInput
from denoiselab.files import read_json
from denoiselab.samplers.base import Planned, Sampler
from denoiselab.samplers.declared import FittedTo
from denoiselab.samplers.fitting.solvers import Solver
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.spacing.listed import Listed
from denoiselab.samplers.transfer import Lam
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class Fitted(Sampler):
    """A solver that was fitted to a model: linear multistep in x0, the network asked at levels of its own.

    x_(k+1) = c_k0 x_k + sum_j c_k(j+1) m_(k-j), where m_i is the x0 predicted from x_i at level `asked[i]`, which need
    not be that of x_i. It runs with its own levels and number of steps, on the weights and the guidance that it was
    fitted to.

    Source: the coefficients, Shaul et al., Bespoke Non-Stationary Solvers, arXiv 2403.01329; the level that the network
    is told, Tong et al., Learning to Discretize Denoising Diffusion ODEs, arXiv 2405.15506, section 3.

    Args:
        path: A JSON file as `task=fit_solver` writes it.

    Raises:
        ValueError: If the file cannot be read or holds no solver; (run) on other levels or with other steps.
    """

    spacing: Spacing = field(init=False, repr=False)
    steps: int = field(init=False, repr=False)
    path: str

    no_order = "its numbers are those of a model and a number of steps"
    own_steps = True

    def __post_init__(self) -> None:
        self.convergence_order = None
        if self.threshold is not None:
            raise ValueError(f"threshold={type(self.threshold).__name__}: a fitted solver has none; use null.")
        try:
            content = read_json(Path(self.path))
        except (OSError, ValueError) as error:
            raise ValueError(f"path={self.path}: {getattr(error, 'strerror', None) or error}.") from None
        if not _holds_solver(content):
            raise ValueError(f"path={self.path}: the file has no solver; name one that task=fit_solver wrote.")
        self._content = content
        self.steps = len(content["asked"])
        self.spacing = self._spacing = Listed(content["lam"], Lam(), to_clean=content["to_clean"])
        self.fitted = FittedTo(
            self.path, content["weights"], content["weights_sha256"],
            {key: content[key] for key in ("guidance", "guider") if key in content},
        )  # fmt: skip
        super().__post_init__()

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        if self.spacing is not self._spacing:
            raise ValueError(f"path={self.path}: a fitted solver makes whole runs on its own levels only.")
        if steps not in (None, self.steps):
            raise ValueError(f"steps={steps}: the solver in {self.path} was fitted with {self.steps} steps.")
        return self.spacing(schedule, self.steps)

    def steps_for(self, nfe: int, schedule: Schedule) -> int:
        if nfe < self.steps:
            raise ValueError(f"nfe={nfe}: the solver in {self.path} takes {self.steps} network calls.")
        return self.steps

    def nfe(self, steps: int, schedule: Schedule) -> int:
        return len(self.grid(schedule, steps)) - 1

    def backwards(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        raise BadInput(f"sampler=fitted: the solver in {self.path} goes from noise to data only; use ddim.")

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        rows = self._content["coefficients"]
        coefficients = torch.zeros(len(rows), len(rows) + 1, dtype=torch.float64)
        for k, row in enumerate(rows):
            coefficients[k, : len(row)] = torch.tensor(row, dtype=torch.float64)
        asked = torch.tensor(self._content["asked"], dtype=torch.float64)
        own = torch.tensor(self._content["lam"][: len(asked)], dtype=torch.float64)
        solver = Solver(list(levels), asked, coefficients)
        if len(levels) != len(asked) + 1 or bool(((solver.own - own).abs() > 1e-6 * own.abs() + 1e-6).any()):
            raise ValueError(f"path={self.path}: a fitted solver makes whole runs on its own levels only.")
        return solver._replace(asked=torch.where(asked == own, solver.own, asked)).plan(schedule)

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        raise NotImplementedError  # `plan` makes all steps


def _holds_solver(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is that of a solver."""

    def numbers(value: object, least: int, most: int) -> bool:
        return (
            isinstance(value, list)
            and least <= len(value) <= most
            and all(type(one) in (int, float) and math.isfinite(one) for one in value)
        )

    asked, rows = content.get("asked"), content.get("coefficients")
    if not (isinstance(asked, list) and isinstance(rows, list) and len(rows) == len(asked)):
        return False
    n, kinds = len(asked), {"to_clean": bool, "weights": str, "weights_sha256": str, "guidance": float | int}
    return (
        numbers(asked, 1, n)
        and all(isinstance(content.get(key), kind) for key, kind in kinds.items())
        and numbers(content.get("lam"), n + (not content["to_clean"]), n + (not content["to_clean"]))
        and all(numbers(row, 2, k + 2) for k, row in enumerate(rows))
    )
