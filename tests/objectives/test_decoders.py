"""Decoders: they are distributions, and the discretised Gaussian against SciPy."""

import math

import pytest
import torch
from oracles import F64

from denoiselab.objectives.decoders import Categorical, DiscretisedGaussian


@pytest.mark.parametrize("decoder", [DiscretisedGaussian(256), Categorical(256)])
@pytest.mark.parametrize("mean", [-1.3, -0.99, 0.0017, 0.6])
@pytest.mark.parametrize("std", [0.02, 0.3, 2.0])
def test_decoders_are_distributions(decoder, mean, std):
    values = torch.linspace(-1, 1, 256, dtype=F64)[:, None]
    log_p = decoder(values, torch.full_like(values, mean), torch.full_like(values, 2 * math.log(std)))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_discretised_gaussian_is_the_integral_over_bins():
    from scipy.stats import norm

    values = torch.linspace(-1, 1, 256, dtype=F64)
    got = DiscretisedGaussian(256)(values, torch.full_like(values, 0.3), torch.tensor(2 * math.log(0.1), dtype=F64))
    normal, upper, lower = norm(0.3, 0.1), (values + 1 / 255).numpy(), (values - 1 / 255).numpy()
    left, right = normal.cdf(upper) - normal.cdf(lower), normal.sf(lower) - normal.sf(upper)
    want = torch.where(values < 0.3, torch.from_numpy(left), torch.from_numpy(right))
    inner = (want > 1e-12) & (values.abs() < 1)  # the rest is the floor, and the open bins
    assert inner.sum() > 150
    assert torch.allclose(got.exp()[inner], want[inner], rtol=1e-9, atol=0)
    assert float(got[0]) == pytest.approx(math.log(1e-12))
    # Far to the right of the mean the naive difference of two numbers near 1 has no digits left.
    far = DiscretisedGaussian(256)(values[128:129], values[128:129] - 0.3, torch.tensor(2 * math.log(0.05), dtype=F64))
    half = 1 / 255 / 0.05
    assert float(far) == pytest.approx(math.log(norm.sf(6 - half) - norm.sf(6 + half)), rel=1e-9)
