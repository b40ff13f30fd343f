"""The share of samples that a classifier assigns to the class that they were drawn for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import LOGITS, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error


class ClassAccuracy(Metric):
    """The share of class-conditional samples whose largest logit is that of their class.

    No value for samples without a class. It is the accuracy of the extractor's classifier, which guides no sampler: a
    model that collapses to one clear image a class has accuracy 1, so read it beside recall.

    Args:
        floor: Also give the mean of the share over all ways to assign the same classes to the same samples, which
            samples reach that do not depend on theirs.
    """

    layer = LOGITS
    reads_moments, reads_features, reads_reference, reads_classes = False, True, False, True
    lower_is_better: Mapping[str, bool] = {"accuracy": False}

    def __init__(self, floor: bool = False) -> None:
        if floor:
            self.lower_is_better = {**self.lower_is_better, "accuracy_floor": False}

    def check(self, n: int, what: str) -> None:
        if n < 1:
            raise ValueError(f"{what}={n}: it must be at least 1.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `accuracy`."""
        classes, logits = samples.classes, samples.outputs
        if classes is None:
            none = Score(math.nan, reason="samples or logits are of no class of the data")
            return dict.fromkeys(self.lower_is_better, none)
        right = (logits.argmax(1) == classes).double()
        value, n, strata = right.mean(), len(right), samples.strata
        influence = right - value
        kept = influences(influence, n, strata)
        found = {"accuracy": Score(float(value), standard_error(influence, n, strata), influences=kept)}
        if "accuracy_floor" in self.lower_is_better:
            number = max(int(classes.max()) + 1, logits.shape[1])
            shares = (part.bincount(minlength=number).double() / n for part in (classes, logits.argmax(1)))
            found["accuracy_floor"] = Score(float(torch.stack([*shares]).prod(0).sum()))
        return found
