"""What a first stage's loss asks of its latents."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from denoiselab.codecs.autoencoder_kl import AutoencoderKL
from denoiselab.codecs.first_stage import FirstStageNetwork, Pass
from denoiselab.codecs.vq import VQModel


class Penalty(NamedTuple):
    """The share of the latents in the loss of a batch.

    Attributes:
        value: A float32 scalar with gradients, weighted.
        parts: Name to detached scalar, to be logged.
    """

    value: Tensor
    parts: dict[str, Tensor]


class Regulariser(Protocol):
    """A penalty on what an autoencoder makes of a batch: an `nn.Module` of any class.

    Its parameters, if it has any, are trained; its buffers are saved in checkpoints.
    """

    def check(self, network: nn.Module, /) -> None:
        """Check before training that it suits an autoencoder, and prepare that.

        Raises:
            ValueError: If it does not; the message names the option that does not fit.
        """
        ...

    def __call__(self, network: FirstStageNetwork, made: Pass, /) -> Penalty:
        """The penalty of a batch; what learns without gradients, such as averages of a codebook, is updated."""
        ...


class KLPenalty(nn.Module):
    """The divergence of the posterior from a standard normal distribution, of an `AutoencoderKL`.

    weight x mean over images of 1/2 sum over latent dimensions of (mean^2 + variance - 1 - log variance), in nats an
    image. LDM's weight of 1e-6 stands against a reconstruction error that is summed over an image's C x H x W elements
    (`reduction: sum` of `ReconstructionLoss`); against a mean over them the same balance is 1e-6 / (C H W).

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix G;
    CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py.

    Args:
        weight: Of the divergence in nats an image.

    Raises:
        ValueError: If it is negative.
    """

    def __init__(self, weight: float = 1e-6) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight={weight}: it must be at least 0.")
        self.weight = weight

    def check(self, network: nn.Module) -> None:
        if not isinstance(network, AutoencoderKL):
            raise ValueError(
                f"regulariser=KLPenalty: it is for an AutoencoderKL, not for a {type(network).__name__}; choose "
                "reconstruction@objective=vq."
            )

    def forward(self, network: FirstStageNetwork, made: Pass) -> Penalty:
        assert isinstance(network, AutoencoderKL)
        mean, std = network.gaussian(made.kept.float())
        assert std is not None
        terms = mean.square() + std.square() - 1 - 2 * std.log()
        kl = terms.flatten(1).sum(1).mean() / 2
        return Penalty(self.weight * kl, {"kl": kl.detach()})


class CodebookPenalty(nn.Module):
    """How far vectors are from their entries of a `VQModel`'s codebook, as means over their elements.

    With sg the stop of gradients: |sg(z) - e|^2 + commitment |z - sg(e)|^2. Learned by averages, the codebook takes the
    place of the first term: each entry is a running mean of the vectors that are nearest to it.

    Entries that few vectors are nearest to can be restarted: they are replaced by random vectors of the batch, of the
    first rank where there are several.

    Source: van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937, equation 3 and appendix A.1;
    restarts as in Dhariwal et al., Jukebox, arXiv 2005.00341, section 3.

    Args:
        weight: Of the penalty.
        commitment: Factor beta on the term that moves the vectors.
        legacy: Put `commitment` on the term that moves the entries instead, as LDM's published models were trained by
            a slip of taming-transformers.
        learning: Of the entries: `gradient`, or `averages` of the vectors.
        decay: Of the averages of entries and of their counts, a batch.
        restart_below: Entries with fewer vectors a batch, on average and over all ranks, are restarted; None for none.

    Raises:
        ValueError: If a value is out of range, or `legacy` is given with averages.
    """

    counts: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        commitment: float = 0.25,
        legacy: bool = False,
        learning: Literal["gradient", "averages"] = "gradient",
        decay: float = 0.99,
        restart_below: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"weight": weight, "commitment": commitment}.items():
            if not value >= 0:
                raise ValueError(f"{name}={value}: it must be at least 0.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: it must be at least 0 and less than 1.")
        if restart_below is not None and not restart_below > 0:
            raise ValueError(f"restart_below={restart_below}: it must be positive, or null for no restarts.")
        if legacy and learning == "averages":
            raise ValueError("legacy=true: it is about gradients of entries; give learning=gradient, or legacy=false.")
        self.weight, self.commitment, self.legacy, self.learning = weight, commitment, legacy, learning
        self.decay, self.restart_below = decay, restart_below

    def check(self, network: nn.Module) -> None:
        if not isinstance(network, VQModel):
            raise ValueError(
                f"regulariser=CodebookPenalty: it is for a VQModel, not for a {type(network).__name__}; choose "
                "reconstruction@objective=kl."
            )
        codebook = network.quantizer.codebook.weight
        self.register_buffer("counts", torch.ones(len(codebook)))
        codebook.requires_grad_(self.learning == "gradient")

    def forward(self, network: FirstStageNetwork, made: Pass) -> Penalty:
        assert isinstance(network, VQModel)
        assert made.entries is not None
        assert made.indices is not None
        z, e = made.kept.float(), made.entries.float()
        commitment = (z - e.detach()).square().mean()
        value, (moved, still) = commitment * self.commitment, (1.0, self.commitment)
        if self.learning == "gradient":
            codebook = (z.detach() - e).square().mean()
            if self.legacy:
                moved, still = still, moved
            value = moved * codebook + still * commitment
        counts, sums = self._collected(z.detach(), made.indices)
        self._learn(network.quantizer.codebook.weight, counts, sums, z.detach())
        share = counts / counts.sum()
        parts = {
            "commitment": commitment.detach(),
            "perplexity": (-torch.special.xlogy(share, share).sum()).exp(),
            "usage": (counts > 0).float().mean(),
        }
        return Penalty(self.weight * value, parts)

    @torch.no_grad()
    def _collected(self, z: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Number `(K,)` and sum `(K, Z)` of the vectors nearest to each entry, over all ranks."""
        flat, vectors = indices.flatten(), z.movedim(1, -1).flatten(0, -2)
        both = z.new_zeros(len(self.counts), 1 + vectors.shape[1])
        both.index_add_(0, flat, torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1))
        if dist.is_initialized():
            dist.all_reduce(both)
        return both[:, 0], both[:, 1:]

    @torch.no_grad()
    def _learn(self, codebook: Tensor, counts: Tensor, sums: Tensor, z: Tensor) -> None:
        """Move entries to the running mean of their vectors, and restart those that have few."""
        former = self.decay * self.counts
        self.counts.copy_(former + (1 - self.decay) * counts)
        if self.learning == "averages":  # an entry without vectors stays: A.1's smoothing is not needed
            hit = counts > 0
            means = (former[:, None] * codebook + (1 - self.decay) * sums) / self.counts.clamp_min(1e-30)[:, None]
            codebook.copy_(torch.where(hit[:, None], means, codebook))
        if self.restart_below is not None:
            vectors = z.movedim(1, -1).flatten(0, -2)
            drawn = vectors[torch.randint(len(vectors), (len(codebook),), device=z.device)]
            if dist.is_initialized():
                dist.broadcast(drawn, 0)
            dead = self.counts < self.restart_below
            codebook.copy_(torch.where(dead[:, None], drawn, codebook))
            self.counts.masked_fill_(dead, 1.0)
