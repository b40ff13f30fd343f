"""Options of the tasks that score samples."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, Literal

from denoiselab.app.tasks.task import Task, check_ranges, check_seed
from denoiselab.evaluation import Extractor


@dataclass(kw_only=True)
class Measuring(Task, ABC):
    """Options that a run's own evaluation has too; null is as there.

    Args:
        num_samples: Samples that are scored together.
        batch_size: Samples a network call; it does not change them.
        seed: Sample i is a function of (seed, i).
        extractor: Of features; a choice of evaluation/extractor@task.extractor.
        metrics: Names of conf/metric, the primary one first.
        metric_options: Options of single metrics.
        diversity: Whether precision, recall and a distance by another extractor are computed too, where guidance acts.
        reference: A file of statistics.
        reference_n: Number of images of the reference, where it does not say so.
        reference_data: `same`: a reference of other data is refused; `any`.
    """

    num_samples: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    extractor: Extractor | None = None
    metrics: list[str] | None = None
    metric_options: dict[str, dict[str, Any]] | None = None
    diversity: bool | None = None
    reference: str | None = None
    reference_n: int | None = None
    reference_data: Literal["same", "any"] | None = None

    def __post_init__(self) -> None:
        check_ranges(2, num_samples=self.num_samples, reference_n=self.reference_n)
        check_ranges(batch_size=self.batch_size)
        check_seed(self.seed)
