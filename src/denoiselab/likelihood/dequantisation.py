"""Dequantisation: real numbers in place of bytes, so that a density bounds the bytes' probability.

With q(u | x) on the bin around x, log P(x), the logarithm of the integral of p over the bin, is at least
E_q [log p(x + u) - log q(u | x)].

Source: Theis et al., A Note on the Evaluation of Generative Models, arXiv 1511.01844, section 3.1 (uniform q); Ho et
al., Flow++, arXiv 1902.00275, section 3.1 (any q).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.codecs import Bijection
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives.decoders import Decoder

# Called with the number of images of each training step.
OnImages = Callable[[int], object]

# From images `(B, C, *)`, their positions in the data, and noise to an upper bound on -log p, up to a constant, in nats
# per dimension `(B,)`, differentiable in the images.
NegativeLogDensity = Callable[[Tensor, Tensor, Noise], Tensor]


class Dequantisation(ABC):
    """Turns data into real numbers.

    Attributes:
        bins: Number of values of the data, equally spaced from -1 to 1; None for real numbers.
        images: Number of images that `fit` uses.
    """

    bins: int | None
    images: int = 0

    @abstractmethod
    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """Numbers y `(B, *)` float64 in the bins of x0 `(B, *)`, and log q in nats, `(B,)` float64.

        Args:
            x0: Data.
            rho: sigma / alpha of the model's least noisy level.
            noise: Source of y.
        """

    def fit(  # noqa: B027  # most have nothing to train
        self, loss: NegativeLogDensity, images: Callable[[Tensor], Tensor], n: int, seed: int, on_images: OnImages
    ) -> None:
        """Train the parameters, if there are any.

        Args:
            loss: Minus the log density under the model.
            images: From indices `(B,)` to images in the network's range, `(B, *)`.
            n: Number of images.
            seed: Of the weights and of all draws.
            on_images: Called with the number of images of each step.
        """

    def through(self, codec: Bijection) -> Dequantisation:
        """The dequantisation for a model of a codec's latents.

        Raises:
            ValueError: If the numbers depend on the noise of a model of the data.
        """
        return _Through(self, codec)


class Real(Dequantisation):
    """Data that are real numbers already: x0 and log q = 0."""

    bins = None

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        return x0.double(), torch.zeros(len(x0), dtype=torch.float64, device=x0.device)


class _Binned(Dequantisation):
    def __init__(self, bins: int = 256) -> None:
        if bins < 2:
            raise ValueError(f"bins={bins}: it must be at least 2.")
        self.bins = bins
        self.half = 1 / (bins - 1)


class Uniform(_Binned):
    """u uniform on the bin.

    Args:
        bins: Values of the data, equally spaced from -1 to 1; 256 for bytes.

    Raises:
        ValueError: If bins < 2.
    """

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        u = self.half * (2 * noise.uniform(x0.shape[1:]) - 1)
        log_q = -x0[0].numel() * math.log(2 * self.half)
        return x0.double() + u, torch.full((len(x0),), log_q, dtype=torch.float64, device=x0.device)


class TruncatedNormal(_Binned):
    """u ~ N(0, std^2) truncated to the bin; for a std of many bins it tends to `Uniform`.

    It suits models whose least noise is narrower than a bin. Nothing is trained.

    Source: Zheng et al., Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs, arXiv 2305.03935,
    section 4.1.

    Args:
        bins: As in `Uniform`.
        std: None for sigma / alpha of the model's least noisy level.

    Raises:
        ValueError: If bins < 2 or std <= 0.
    """

    def __init__(self, bins: int = 256, std: float | None = None) -> None:
        super().__init__(bins)
        if std is not None and std <= 0:
            raise ValueError(f"std={std}: it must be positive.")
        self.std = std

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        std = rho if self.std is None else self.std
        mass = math.erf(self.half / (std * math.sqrt(2)))
        z = math.sqrt(2) * torch.erfinv(mass * (2 * noise.uniform(x0.shape[1:]) - 1))
        log_q = -z.square() / 2 - math.log(std * math.sqrt(2 * math.pi) * mass)
        # The last digits of erfinv may lie outside.
        return x0.double() + (std * z).clamp(-self.half, self.half), log_q.flatten(1).sum(1)

    def through(self, codec: Bijection) -> Dequantisation:
        if self.std is None:
            raise ValueError(f"std=null: this model's noise is in latents of {type(codec).__name__}; give a std.")
        return super().through(codec)


class Decoded(Dequantisation):
    """The model's own noise, y ~ N(x0, rho^2), with a decoder's log p(x0 | y) subtracted from log q.

    It needs no bins, so it applies to real numbers too. With the decoder of a variational bound it gives that bound,
    with the exact density of the latent in place of the divergences.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 5-8.

    Args:
        decoder: log p(x0 | y) around y, with variance rho^2.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.bins = decoder, decoder.bins

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """See `Dequantisation`; in place of log q, log q(y | x0) - log p(x0 | y)."""
        eps = noise.like(x0.double())
        y = x0.double() + rho * eps
        log_rho = torch.full((), rho, dtype=torch.float64, device=x0.device).log()
        log_q = -(eps.square() + math.log(2 * math.pi)) / 2 - log_rho
        return y, (log_q - self.decoder(x0, y, 2 * log_rho)).flatten(1).sum(1)

    def through(self, codec: Bijection) -> Dequantisation:
        raise ValueError(
            f"decoder: it is for noise in the data, and this model's is in latents of {type(codec).__name__}; choose "
            "dequantisation@likelihood.dequantisation=uniform."
        )


class Variational(_Binned):
    """u = half tanh(z / 2), z logistic; a small network computes mean and scale of each pixel from the image.

    Untrained it equals `Uniform`; training on the training images lowers the reported bound. The source has a flow in
    place of the logistic.

    Source: Ho et al., Flow++, arXiv 1902.00275, section 3.1; Song et al., Maximum Likelihood Training of Score-Based
    Diffusion Models, arXiv 2101.09258, for its training with a fixed score model.

    Args:
        bins: As in `Uniform`.
        width: Channels of the network.
        steps: Optimizer steps of Adam.
        batch_size: Images a step.
        lr: Learning rate, decaying to 0 by a cosine.

    Raises:
        ValueError: If bins < 2, or another value is not positive.
    """

    def __init__(
        self, bins: int = 256, width: int = 32, steps: int = 1000, batch_size: int = 64, lr: float = 2e-3
    ) -> None:
        super().__init__(bins)
        for name, value in (("width", width), ("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1.")
        if lr <= 0:
            raise ValueError(f"lr={lr}: it must be positive.")
        self.width, self.steps, self.batch_size, self.lr = width, steps, batch_size, lr
        self.images = steps * batch_size
        self.network: nn.Module | None = None

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """See `Dequantisation`; y is differentiable in the network's weights."""
        assert self.network is not None
        mean, log_scale = self.network(x0.float()).double().chunk(2, dim=1)
        uniform = noise.uniform(x0.shape[1:])
        z = mean + log_scale.exp() * torch.logit(uniform)
        # Logistic density of z over du / dz = half (1 - tanh^2(z / 2)) / 2 = 2 half s(z) s(-z), s the sigmoid.
        log_q = uniform.log() + (-uniform).log1p() - log_scale - F.logsigmoid(z) - F.logsigmoid(-z)
        log_q = log_q.flatten(1).sum(1) - x0[0].numel() * math.log(2 * self.half)
        return x0.double() + self.half * torch.tanh(z / 2), log_q

    def fit(
        self, loss: NegativeLogDensity, images: Callable[[Tensor], Tensor], n: int, seed: int, on_images: OnImages
    ) -> None:
        first = images(torch.arange(1))
        channels, device = first.shape[1], first.device
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[first.ndim - 3]
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed % 2**63)
            body = [conv(channels, self.width, 3, padding=1), nn.SiLU(), conv(self.width, self.width, 3, padding=1)]
            head = conv(self.width, 2 * channels, 1)
        for weight in head.parameters():
            nn.init.zeros_(weight)
        self.network = nn.Sequential(*body, nn.SiLU(), head).to(device)
        optimizer = torch.optim.Adam(self.network.parameters(), self.lr)
        for step in range(self.steps):
            position = torch.arange(step * self.batch_size, (step + 1) * self.batch_size, device=device)
            noise = Noise(seed, position, TRAINING)
            index = (noise.uniform() * n).long()
            optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
            with torch.enable_grad():
                y, log_q = self(images(index), 0.0, noise)
                value = (loss(y.float(), index, noise) + log_q / first.numel()).mean()
                weights = list(self.network.parameters())
                for weight, gradient in zip(weights, torch.autograd.grad(value, weights), strict=True):
                    weight.grad = gradient
            optimizer.step()
            on_images(self.batch_size)


class _Through(Dequantisation):
    """A codec's latents z of another dequantisation's y: log q(z) = log q(y) - log |det dz / dy|."""

    def __init__(self, inner: Dequantisation, codec: Bijection) -> None:
        self.inner, self.codec = inner, codec
        self.bins, self.images = inner.bins, inner.images

    def __call__(self, x0: Tensor, rho: float, noise: Noise) -> tuple[Tensor, Tensor]:
        y, log_q = self.inner(x0, rho, noise)
        return self._latents(y, noise), log_q - self.codec.log_abs_det(y)

    def fit(
        self, loss: NegativeLogDensity, images: Callable[[Tensor], Tensor], n: int, seed: int, on_images: OnImages
    ) -> None:
        def of_images(y: Tensor, index: Tensor, noise: Noise) -> Tensor:
            return loss(self._latents(y, noise), index, noise) - self.codec.log_abs_det(y) / y[0].numel()

        self.inner.fit(of_images, images, n, seed, on_images)

    def _latents(self, y: Tensor, noise: Noise) -> Tensor:
        return self.codec.encode_latents(self.codec.encode_pixels(y), noise.normal)
