"""Mean and covariance of a run whose steps are affine in x and its noise: exact, from one run on the basis of both."""

import torch
from oracles import F64

from denoiselab.analytic import GaussianDenoiser
from denoiselab.inverse import Mask
from denoiselab.noise import Noise
from denoiselab.schedules import VPLinear

# Four coordinates of unit variance, neighbours with correlation 0.9, of which the first and the third are measured.
COVARIANCE = 0.9 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
PRIOR = GaussianDenoiser(torch.zeros(4), COVARIANCE)
OPERATOR = Mask([1, 0, 1, 0]).bind((4,))
ROWS = [0, 2]
Y = torch.tensor([1.0, -0.5], dtype=F64)


class Basis(Noise):
    """Noise that is 0, but for coordinate j of draw k, which is 1 in row 1 + D k + j."""

    def __init__(self, dimension, draws):
        super().__init__(0, torch.arange(1 + dimension * draws))
        self.dimension = dimension

    def normal(self, shape, dtype=torch.float32):
        z = torch.zeros(len(self.index), self.dimension, dtype=dtype)
        first = 1 + self.draw * self.dimension
        assert first < len(z), "more draws than rows"
        z[first : first + self.dimension] = torch.eye(self.dimension, dtype=dtype)
        self.draw += 1
        return z


def pushed(build, steps, draws, denoise=PRIOR, y=Y):
    """The mean `(D,)` and covariance `(D, D)` of samples of `build(y)`, a sampler of measurements `(B, M)`."""
    (dimension,) = PRIOR.shape
    noise = Basis(dimension, draws)
    sampler = build(y.expand(len(noise.index), -1))
    x = sampler(denoise, VPLinear(), (dimension,), noise, steps=steps, dtype=F64)
    moves = x[1:] - x[0]
    return x[0], moves.T @ moves


def posterior(y=Y, std=0.0):
    """The exact mean and covariance given y = x[ROWS] + std z."""
    gram = COVARIANCE[ROWS][:, ROWS] + std**2 * torch.eye(len(ROWS), dtype=F64)
    gain = COVARIANCE[:, ROWS] @ torch.linalg.inv(gram)
    return gain @ y, COVARIANCE - gain @ COVARIANCE[ROWS]


def errors(mean, covariance, y=Y, std=0.0):
    """The distance of the means in standard deviations of the posterior, and the ratio of the traces of covariances."""
    true_mean, true_covariance = posterior(y, std)
    spread = true_covariance.trace()
    return float((mean - true_mean).norm() / spread.sqrt()), float(covariance.trace() / spread)
