"""Layers that preserve magnitude: independent inputs of unit variance give outputs of unit variance.

Source: Karras et al., EDM2, arXiv 2312.02696; equations are its.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import attend
from denoiselab.networks.layers import Dropout

# Added to a vector's length, so that zeros are not divided by 0.
EPS = 1e-4


def normalize(x: Tensor, *axes: int) -> Tensor:
    """`x` over its root mean square along `axes`, in float32 at least: each vector has length sqrt(N).

    Of weights it is eq. 47, of activations along their channels pixel norm.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=dtype)
    return x / (EPS + length * math.sqrt(1 / math.prod([x.shape[axis] for axis in axes]))).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over the root mean square that it has for a standard normal input (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """(1 - weight) a + weight b, of unit variance (eq. 88)."""
    return a.lerp(b, weight) / math.hypot(1 - weight, weight)


def mp_cat(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """`(B, Na, *)` and `(B, Nb, *)` as `(B, Na + Nb, *)`, of unit mean square (eq. 103).

    `a` counts as 1 - weight and `b` as weight, whatever their numbers of channels.
    """
    total = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - weight) ** 2 + weight**2))
    factors = total * (1 - weight) / math.sqrt(a.shape[1]), total * weight / math.sqrt(b.shape[1])
    return torch.cat((factors[0] * a, factors[1] * b), dim=1)


class MPFourier(nn.Module):
    """sqrt(2) times cosines of a label at random frequencies and phases, drawn once and not trained (eq. 75)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels `(B,)` as `(B, features)` in the module's dtype, computed in float32."""
        angles = label[:, None].float() * self.frequencies.float() + self.phases.float()
        return (math.sqrt(2) * angles.cos()).to(self.phases.dtype)


class MPConv(nn.Module):
    """A convolution or linear layer without bias, each of whose outputs has a weight of unit length (eq. 47).

    After each step of an optimizer, `constrain` normalises the stored weights too (eq. 66, forced weight
    normalization), so that their growth does not slow learning. The source's code does it in the next forward pass;
    done after the step, passes have no side effects and may be compiled or computed again, and moving averages are of
    the weights in use.

    Args:
        kernel: Size of the kernel, odd; None for a linear layer.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int | None = None) -> None:
        super().__init__()
        size = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, *size))
        self.axes = tuple(range(1, self.weight.ndim))
        self.factor = 1 / math.sqrt(self.weight[0].numel())
        self.constrain()

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map `(B, channels_in, *)` to `(B, channels_out, *)`, times `gain`."""
        weight = (normalize(self.weight.float(), *self.axes) * (self.factor * gain)).to(x.dtype)
        if len(self.axes) == 1:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def constrain(self) -> None:
        """Normalise the weights to unit variance."""
        self.weight.copy_(normalize(self.weight.float(), *self.axes))


class MPBlock(nn.Module):
    """A residual block of encoder or decoder, with self-attention over positions (figure 21).

    Args:
        encoder: Normalise the input over channels, after the shortcut, as blocks of the encoder do.
        resample: Resamples the input.
        heads: Heads of attention; 0 for none.
        residual_balance: Weight of the residual branch.
        attention_balance: Weight of attention.
        clip: Bound on the output; None for none.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        encoder: bool,
        resample: nn.Module,
        heads: int,
        dropout: float,
        residual_balance: float,
        attention_balance: float,
        clip: float | None,
    ) -> None:
        super().__init__()
        self.encoder, self.resample, self.heads, self.clip = encoder, resample, heads, clip
        self.residual_balance, self.attention_balance = residual_balance, attention_balance
        self.embedding_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = MPConv(channels_out if encoder else channels_in, channels_out, 3)
        self.embedding = MPConv(embedding, channels_out)
        self.dropout = Dropout(dropout)
        self.conv_out = MPConv(channels_out, channels_out, 3)
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip = MPConv(channels_in, channels_out, 1)
        if heads:
            self.qkv = MPConv(channels_out, 3 * channels_out, 1)
            self.out = MPConv(channels_out, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `x` `(B, channels_in, H, W)` and the embedding `(B, E)` to `(B, channels_out, H', W')`."""
        x = self.resample(x)
        if self.encoder:
            x = normalize(self.skip(x), 1)
        h = self.conv_in(mp_silu(x))
        scale = self.embedding(embedding, self.embedding_gain) + 1
        h = self.dropout(mp_silu(h * scale[:, :, None, None].to(h.dtype)))
        h = self.conv_out(h)
        x = mp_sum(x if self.encoder else self.skip(x), h, self.residual_balance)
        if self.heads:
            x = mp_sum(x, self._attention(x), self.attention_balance)
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _attention(self, x: Tensor) -> Tensor:
        """Self-attention of queries, keys and values of unit variance each."""
        joint = self.qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3))  # (B, N, D, 3, HW)
        q, k, v = normalize(joint, 2).transpose(2, 4).unbind(3)  # (B, N, HW, D) each
        h = attend(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        out: Tensor = self.out(h)
        return out
