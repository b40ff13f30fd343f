"""The end of a FID beside torch-fidelity's: mean and covariance of features, and the distance of two of them."""

import pytest
import torch
from torch_fidelity import metric_fid

from denoiselab.evaluation.metrics.frechet import frechet_distance, frechet_scores, root_of
from denoiselab.evaluation.metrics.statistics import GaussianStatistics

pytestmark = pytest.mark.benchmark

N, D, BATCH = 10_000, 2048, 500


def features(seed):
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=draw) * torch.linspace(1, 0.02, D)
    return torch.randn(N, D, generator=draw) @ mixing.T / D**0.5 + 0.1 * seed


def statistics(values):
    sums = GaussianStatistics(D)
    for part in values.split(BATCH):
        sums.update(part)
    return sums


def test_statistics_and_distance_of_2048_features(timed):
    one, two = features(0), features(1)
    timed(
        "FID, statistics", f"{N:,} features of {D}",
        {
            "ours": lambda: statistics(one).compute(),
            "torch-fidelity": lambda: metric_fid.fid_features_to_statistics(one.double()),
        },
        rounds=2,
    )  # fmt: skip
    ours = [statistics(values) for values in (one, two)]
    theirs = [metric_fid.fid_features_to_statistics(values.double()) for values in (one, two)]
    moments, values = [one.compute() for one in ours], {}

    def distance():
        values["ours"] = frechet_distance(*moments)

    def peers():
        values["theirs"] = metric_fid.fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]

    seconds = timed("FID, distance", f"of {D} features", {"ours": distance, "torch-fidelity": peers}, rounds=1)
    assert values["ours"] == pytest.approx(values["theirs"], rel=1e-6)
    assert seconds["torch-fidelity"] > 3 * seconds["ours"]
    root = root_of(moments[1])
    timed(
        "FID, distance", "with standard error, bias removed, second influences; a fixed reference",
        {"ours": lambda: frechet_scores(ours[0], moments[1], root), "torch-fidelity, the distance alone": peers},
        rounds=1,
    )  # fmt: skip
