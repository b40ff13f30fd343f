"""Cells of fresh samples: those of the indices that follow."""

import torch
from test_frontier import Pixels, frontier, score

from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.records import comparable
from denoiselab.samplers import Ancestral
from denoiselab.samplers.spacing import UniformTime


def drawn(directory, **options):
    """The images of the one cell of a frontier, its record, and the index of the first."""
    images, starts = [], []

    class Kept(Pixels):
        def statistics(self, start=0, strata=1):
            images.clear()  # of the warm-up
            starts.append(start)
            return GaussianStatistics(16, lambda x: (images.append(x.clone()), x.float().flatten(1))[1])

    one = {"samplers": {"ancestral": Ancestral(UniformTime(), 1)}, "nfe": [3], **options}
    (record, *_) = score(frontier(**one), directory, scorer=Kept())
    return torch.cat(images), record, starts[-1]


def test_fresh_samples_are_those_of_the_indices_that_follow(tmp_path):
    whole, _, _ = drawn(tmp_path / "whole", num_samples=20)
    early, first, start = drawn(tmp_path / "parts", num_samples=10)
    late, second, later = drawn(tmp_path / "parts", num_samples=10, first=10)
    assert torch.equal(torch.cat([early, late]), whole)
    assert (start, later) == (0, 10)
    assert "first" not in first  # as in records of former versions, so that these are found
    assert second["first"] == 10
    assert first["cell"] != second["cell"]
    assert comparable(first) != comparable(second)  # scores on the same noise alone are compared as paired
