import numpy as np
import pytest
import scipy.linalg
import torch

from denoiselab.evaluation.frechet import frechet_distance
from denoiselab.evaluation.statistics import GaussianStatistics


def statistics(x):
    out = GaussianStatistics(x.shape[1])
    for part in x.split(7):
        out.update(part)
    return out


def draws(seed, n=200, d=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=g) @ torch.randn(d, d, dtype=torch.float64, generator=g)


def test_sums_give_mean_and_covariance():
    x = draws(0)
    s = statistics(x)
    assert torch.allclose(s.mean, x.mean(0))
    assert torch.allclose(s.covariance, torch.cov(x.T))


def test_distance_equals_the_matrix_square_root_of_scipy():
    p, q = statistics(draws(0)), statistics(draws(1) + 0.5)
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy()).real
    expected = float((p.mean - q.mean).square().sum() + (p.covariance + q.covariance).trace() - 2 * np.trace(root))
    assert frechet_distance(p, q) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(p, p) == pytest.approx(0, abs=1e-8)


def test_distance_of_known_gaussians():
    """Equal covariances: |difference of means|^2. Diagonal ones: sum of (s_p - s_q)^2."""
    p, q = GaussianStatistics(2), GaussianStatistics(2)
    for s, scale, shift in ((p, 1.0, 0.0), (q, 3.0, 2.0)):
        s.update(torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * scale + shift)
    sd = (4 / 3) ** 0.5
    assert frechet_distance(p, q) == pytest.approx(8 + 2 * (sd * 3 - sd) ** 2, rel=1e-12)


def test_fewer_samples_than_dimensions_is_finite():
    p, q = statistics(draws(0, n=3, d=8)), statistics(draws(1, n=100, d=8))
    assert np.isfinite(frechet_distance(p, q))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="sample 1"):
        GaussianStatistics(2).update(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]))
