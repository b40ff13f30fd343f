"""A metric."""

from denoiselab.evaluation import Layer, Score


class MeanDistance:
    """|mean of the samples' features - mean of the reference's|^2, without a standard error."""

    layer = "features"
    reads_moments, reads_features, reads_reference = True, False, True

    def __init__(self) -> None:
        self.lower_is_better = {"mean_distance": True}

    def check(self, n: int, what: str) -> None:
        """Refuse an empty set of samples; `what` names the option that says n."""
        if n < 1:
            raise ValueError(f"{what}={n}: must be at least 1.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`mean_distance`."""
        assert samples.moments is not None
        assert reference.moments is not None
        difference = samples.moments.mean - reference.moments.mean
        return {"mean_distance": Score(float(difference.square().sum()), None)}
