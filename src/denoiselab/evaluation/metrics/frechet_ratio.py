"""The Fréchet distance as a multiple of that of held-out data."""

from __future__ import annotations

from collections.abc import Mapping

from denoiselab.evaluation.contracts import Influences, Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.frechet import FrechetDistance, frechet_distance


class FrechetRatio(Metric):
    """The Fréchet distance of samples to the training data over that of held-out data (FDr): 1 if as near as those.

    FDr-k is the mean of the ratios of k extractors, see `SeveralExtractors`. The distance of n images is too large by
    a multiple of 1/n, so ratios are comparable at equal numbers of samples and of held-out images.

    Source: Representation Fréchet Loss for Visual Generation, arXiv 2604.28190.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference, reads_held_out, averaged = True, False, True, True, True
    lower_is_better: Mapping[str, bool] = {"fdr": True}

    def __init__(self) -> None:
        self._frechet = FrechetDistance()
        self._last: tuple[object, float] = (None, 0.0)  # the last held-out moments, and their distance

    def check(self, n: int, what: str) -> None:
        self._frechet.check(n, what)

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `fdr`; the held-out data's distance is taken as it is.

        Raises:
            ValueError: If there are no held-out data.
        """
        held_out = reference.held_out
        if held_out is None:
            raise ValueError("frechet_ratio: it divides by the distance of held-out data, and there are none.")
        if self._last[0] is not held_out.moments:
            self._last = held_out.moments, frechet_distance(held_out.moments, reference.moments)
        own = self._last[1]
        found = self._frechet.scores(samples, reference)["fd"]
        error = None if found.standard_error is None else found.standard_error / own
        kept = found.influences
        scaled = None if kept is None else Influences(kept.first / own, kept.second / own, kept.n, kept.strata)
        return {"fdr": Score(found.value / own, error, influences=scaled)}
