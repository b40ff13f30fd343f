"""Checks of a metric of features: names, values, direction, too few samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from denoiselab.evaluation import Layer, Metric, Score

# Features of each set, and their dimensions: enough for the blocks of a kernel distance.
_N, _D = 2000, 4


def check_metric(metric: Metric) -> None:
    """Check that a metric can score samples, on features of Gaussians.

    It returns a number, or a reason why there is none, for each name in `lower_is_better`, in that order; the same sets
    have the same scores; one that reads the reference scores draws of it better than draws of another distribution, in
    the direction that it declares; `check` refuses a set without samples.

    Raises:
        AssertionError: If it cannot; the message says what fails.
    """
    from denoiselab.evaluation import ContractError  # which imports more than torch
    from denoiselab.evaluation.features.extractors import check_scores

    name = type(metric).__name__
    reference, near, far = (_layer(metric, seed, shift) for seed, shift in ((0, 0.0), (1, 0.0), (2, 3.0)))
    if getattr(metric, "reads_held_out", False):
        reference = replace(reference, held_out=_layer(metric, 3, 0.0))
    scores, again, worse = (metric.scores(layer, reference) for layer in (near, near, far))
    try:
        check_scores(metric, scores)
    except ContractError as error:
        raise AssertionError(str(error)) from None
    for called, score in scores.items():
        _check_score(f"{name}, {called}", score)
        assert _same(score.value, again[called].value), f"{name}, {called}: another call has another value."
        if (
            not metric.reads_reference
            or not getattr(metric, "favours_data", True)
            or math.isnan(score.value)
            or math.isnan(worse[called].value)
        ):
            continue
        lower = metric.lower_is_better[called]
        fits = score.value < worse[called].value if lower else score.value > worse[called].value
        assert fits, (
            f"{name}.lower_is_better[{called!r}] is {lower}: draws of the reference score {score.value:.4g}, those of "
            f"another distribution {worse[called].value:.4g}."
        )
    said = "nothing was raised"
    try:
        metric.check(0, "num_samples")
    except ValueError as error:
        said = str(error)
    assert "num_samples=0" in said, f"{name}.check: must refuse 0 samples as num_samples=0: ...; found: {said}"


def _layer(metric: Metric, seed: int, shift: float) -> Layer:
    """What the metric reads of a set of features around `shift`."""
    from denoiselab.evaluation import Layer
    from denoiselab.evaluation.metrics.statistics import GaussianStatistics

    features = torch.randn(_N, _D, generator=torch.Generator().manual_seed(seed)) + shift
    moments = GaussianStatistics(_D)
    moments.update(features)
    return Layer(moments if metric.reads_moments else None, features if metric.reads_features else None)


def _check_score(where: str, score: Score) -> None:
    assert not math.isinf(score.value), f"{where}: must be finite, or NaN with a reason."
    assert score.reason or not math.isnan(score.value), f"{where}: is NaN; its Score must have a reason."
    error = score.standard_error
    assert error is None or error >= 0, f"{where}: the standard error is {error}; it must be at least 0, or None."
    kept = score.influences
    assert kept is None or (kept.first.ndim == 1 and len(kept.first) <= kept.n), (
        f"{where}: influences.first must be those of the first m of the n samples, (m,)."
    )


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
