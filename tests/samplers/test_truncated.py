"""Starts at an intermediate level against the exact flow of a Gaussian."""

import pytest
import torch

from denoiselab.analytic import GaussianDenoiser
from denoiselab.errors import BadInput
from denoiselab.noise import Noise
from denoiselab.samplers import DDIM, DPMSolverPP
from denoiselab.samplers.spacing import Asinh, Truncated, UniformTime
from denoiselab.schedules import EDM, Flow, Level, VPLinear

MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
EXACT = GaussianDenoiser(MEAN, COVARIANCE)


@pytest.fixture
def file(tmp_path):
    variances, axes = torch.linalg.eigh(COVARIANCE)
    torch.save({"lam": 0.5, "mean": MEAN, "variances": variances, "axes": axes}, tmp_path / "start.pt")
    return str(tmp_path / "start.pt")


@pytest.mark.parametrize("schedule", [EDM(), VPLinear(), Flow()])
def test_a_gaussian_starts_where_its_flow_is_and_ends_where_it_ends(file, schedule):
    grid, z = Truncated(UniformTime(), path=file), Noise(0, torch.arange(50)).normal((2,), torch.float64)
    first = grid(schedule, 4)[0]
    assert float(first.lam) == pytest.approx(0.5, abs=1e-6)
    one, pure = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    noisy = Level(one, pure, one)
    assert torch.allclose(grid.begin(z, first), EXACT.flow(z, noisy, first), atol=1e-12)
    sampler = DPMSolverPP(Truncated(Asinh(), path=file), 300)
    found = sampler(EXACT, schedule, (2,), Noise(0, torch.arange(50)), dtype=torch.float64)
    assert torch.allclose(found, EXACT.flow(z, noisy, Level.clean()), atol=1e-3)


def test_grids_count_and_refuse(file, tmp_path):
    sampler = DDIM(Truncated(path=file), 4)
    assert sampler.nfe(4, EDM()) == 4
    with pytest.raises(BadInput, match="of 2 dimensions, and samples have 3"):
        sampler(EXACT, EDM(), (3,), Noise(0, torch.arange(1)))
    with pytest.raises(ValueError, match=r"path=.*none\.pt: No such file"):
        Truncated(path=str(tmp_path / "none.pt"))
    (tmp_path / "other.pt").write_bytes(b"text")
    with pytest.raises(ValueError, match="has no moments; name one of task=truncate"):
        Truncated(path=str(tmp_path / "other.pt"))
