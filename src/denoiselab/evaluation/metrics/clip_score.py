"""How well samples fit the texts that they were drawn for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error

_FORMULAS = {"clip_score": (2.5, "A photo depicts ", 0.0), "cosine": (1.0, "", -1.0)}


class CLIPScore(Metric):
    """The mean over samples of a function of the cosine of the features of sample and text, by CLIP.

    `clip_score` is 2.5 max(cosine, 0), of texts after "A photo depicts ", as the paper has it; `cosine` is the cosine
    of the texts themselves, which figures of FID against CLIP show, and 100 times which torchmetrics gives. No value
    for samples of no text. A network that generates from CLIP's own features of texts has seen them.

    Source: Hessel et al., CLIPScore, arXiv 2104.08718, section 3.

    Args:
        formula: clip_score or cosine.

    Raises:
        ValueError: If it is another one.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, False
    reads_texts = True

    def __init__(self, formula: Literal["clip_score", "cosine"] = "clip_score") -> None:
        if formula not in _FORMULAS:
            raise ValueError(f"formula={formula}: it must be one of {', '.join(_FORMULAS)}.")
        self.factor, self.before, self.least = _FORMULAS[formula]
        self.lower_is_better: Mapping[str, bool] = {formula: False}

    def check(self, n: int, what: str) -> None:
        if n < 1:
            raise ValueError(f"{what}={n}: it must be at least 1.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `clip_score` or `cosine`."""
        (name,) = self.lower_is_better
        if samples.texts is None:
            return {name: Score(math.nan, reason="samples are of no text")}
        texts = samples.texts(self.before).double()
        each = self.factor * F.cosine_similarity(samples.outputs.double(), texts, dim=1).clamp_min(self.least)
        n, strata = len(each), samples.strata
        influence = each - each.mean()
        kept = influences(influence, n, strata)
        return {name: Score(float(each.mean()), standard_error(influence, n, strata), influences=kept)}
