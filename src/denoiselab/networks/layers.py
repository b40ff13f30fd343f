"""Layers that the networks share.

In all files of layers, `channels_in` and `channels_out` are channels or features of input and output, `channels` of
both; `groups` and `eps` are of the group norms, `embedding` is the number of features of the activated embedding,
`dropout` a probability and `heads` the number of heads of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from denoiselab.networks.convolution import Conv3x3
from denoiselab.networks.resampling import Averages, Repeats, UpConv2d

# Odd constants of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), as int64.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64

_T = TypeVar("_T")


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all parameters set to zero, so that its residual block is the identity before training."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def run(function: Callable[..., _T], *arguments: object, checkpointed: bool = False) -> _T:
    """Call a function; if `checkpointed`, its activations are computed again in the backward pass.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174.
    """
    if not (checkpointed and torch.is_grad_enabled()):
        return function(*arguments)
    if torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _PlainAttention()))


class _PlainAttention:
    """A context in which attention is the one that can be differentiated twice; unlike torch's, entered repeatedly."""

    def __enter__(self) -> None:
        self._context = sdpa_kernel(SDPBackend.MATH)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def join_image(x: Tensor, image: Tensor | None) -> Tensor:
    """Concatenate `x` `(B, C, H, W)` and the image of a conditioning, resized to it: `(B, C + C', H, W)`."""
    if image is None:
        return x
    if image.shape[2:] != x.shape[2:]:
        image = F.interpolate(image, x.shape[2:], mode="bilinear")
    return torch.cat((x, image.to(x.dtype)), dim=1)


@runtime_checkable
class Constrained(Protocol):
    """A layer with a constraint on its weights, which is restored after each step of an optimizer."""

    def constrain(self) -> None:
        """Project the weights onto the constraint, in place."""
        ...


class NormSiLU(nn.GroupNorm):
    """silu of a group norm, which may be scaled and shifted in between."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """silu((1 + scale) norm(x) + shift), `(B, C, *)`; scale and shift broadcast to it."""
        h = super().forward(x)
        if scale is not None:
            h = h * (1 + scale)
        if shift is not None:
            h = h + shift
        return F.silu(h, inplace=not torch.is_grad_enabled())  # its gradient needs its input


class ResidualBlock(nn.Module):
    """Norm, swish, conv; add the embedding; norm, swish, dropout, conv; add the input.

    Sources: Ho et al., DDPM, arXiv 2006.11239, appendix B; with `scale_shift`, `up` and `down` Dhariwal and Nichol,
    ADM, arXiv 2105.05233, section 3 (adaptive group norm; BigGAN's up- and downsampling).

    Args:
        scale_shift: The embedding scales and shifts the second norm's output, instead of being added before it.
        up: Double the resolution before the first convolution, by nearest neighbours.
        down: Halve it there, by averages.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        dropout: float,
        groups: int,
        eps: float = 1e-5,
        scale_shift: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm_in = NormSiLU(groups, channels_in, eps)
        self.conv_in = UpConv2d(channels_in, channels_out) if up else Conv3x3(channels_in, channels_out)
        self.embedding = nn.Linear(embedding, 2 * channels_out if scale_shift else channels_out)
        self.norm_out = NormSiLU(groups, channels_out, eps)
        self.dropout = Dropout(dropout)
        self.conv_out = zero_init(Conv3x3(channels_out, channels_out))
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.halve: nn.Module = Averages() if down else nn.Identity()
        self.resample: nn.Module = Repeats() if up else self.halve

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `x` `(B, channels_in, H, W)` and the activated embedding `(B, E)` to `(B, channels_out, H', W')`."""
        h = self.conv_in(self.halve(self.norm_in(x)))
        modulation = self.embedding(embedding)[:, :, None, None]
        # A convolution does not need its output for its gradient: what is added to it may be added in place.
        h = self.norm_out(h, *modulation.chunk(2, dim=1)) if self.scale_shift else self.norm_out(h.add_(modulation))
        out: Tensor = self.conv_out(self.dropout(h)).add_(self.resample(self.skip(x)))
        return out


class Dropout(nn.Module):
    """Sets numbers to zero at random in training, and scales the others up by as much.

    A mask is a function of the sample's and the layer's `key` alone, not of batch size, rank, order or device: calls
    between two changes of it, such as the second computation of a checkpointed block, draw the same one. While there is
    no key, torch's generator draws masks.

    Args:
        p: Probability, rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        # Two words a sample, `(B, 2)` int64. A tensor, so that compiled blocks share their code.
        self.key: Tensor | None = None

    def extra_repr(self) -> str:
        """The probability, for `repr`."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """Of `x` `(B, *)`; in evaluation `x` itself."""
        if not self.training or not self.p:
            return x
        if self.key is None:
            return F.dropout(x, self.p)
        values = min(round(self.p * 2**16), 2**16 - 1)
        drop = bits(self.key, x[0].numel(), len(x)).view(x.shape) < values - 2**15
        return x.masked_fill(drop, 0.0) * (2**16 / (2**16 - values))


@contextmanager
def dropout_of_rows(module: nn.Module, rows: Tensor) -> Iterator[None]:
    """Within it the layers of a module draw the masks of some rows `(K,)` of the batch, for a call with these."""
    layers = [(layer, layer.key) for layer in module.modules() if isinstance(layer, Dropout) and layer.key is not None]
    try:
        for layer, key in layers:
            layer.key = key[rows]
        yield
    finally:
        for layer, key in layers:
            layer.key = key


def bits(key: Tensor, count: int, rows: int) -> Tensor:
    """Uniform int16 numbers `(rows, count)`, each row a function of its two words of `key`.

    SplitMix64 with a second word of the key between its two multiplications, four numbers a state.

    Args:
        key: `(B, 2)` int64.
        count: Numbers a row.
        rows: From row B on, the words of `key` are used again, each time with others added.
    """
    if rows != len(key):
        place = torch.arange(rows, device=key.device)
        key = key[place % len(key)] + (place // len(key) * _MIX[0])[:, None]
    first, second = key[:, :1], key[:, 1:]
    state = torch.arange(-(-count // 4), device=key.device) * _STEP + first
    # The shift copies the sign, which here loses one bit of 64; the last one may not.
    state.bitwise_xor_(state >> 32).mul_(_MIX[0]).bitwise_xor_(second)
    state.bitwise_xor_(state >> 29).mul_(_MIX[1])
    state.bitwise_xor_((state >> 32).bitwise_and_(0xFFFFFFFF))
    return state.view(torch.int16)[:, :count]
