"""A convolution whose gradient is faster on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Matrix products are faster than oneDNN's gradient of the weight without AVX-512, from so many channels and up to so
# many positions.
_SLOW = torch.backends.cpu.get_cpu_capability() != "AVX512"
_CHANNELS = 128
_POSITIONS = 64 * 64


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 that keeps the size.

    On CPUs without AVX-512, in float32, the gradient of a wide layer's weight is computed by three matrix products an
    image, in three quarters of oneDNN's time; elsewhere, compiled, under autocast and `torch.func` by torch.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.wide = min(channels_in, channels_out) >= _CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, H, W)`."""
        if not self.wide or torch.compiler.is_compiling() or not _fits(x, self.weight):
            return super().forward(x)
        out: Tensor = _Convolution.apply(x, self.weight, self.bias)
        return out


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        _SLOW
        and torch.is_grad_enabled()
        and weight.requires_grad
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.shape[2] * x.shape[3] <= _POSITIONS
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        # Else it is differentiated again or mapped over many gradients, as torch's can be.
        mine = not torch.is_grad_enabled() and not torch._C._functorch.is_legacy_batchedtensor(gradient)
        wanted = [ctx.needs_input_grad[0], not mine, not mine]
        same = [1, 1]
        parts: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            gradient, x, weight, [len(weight)], same, same, same, False, [0, 0], 1, wanted
        )
        if mine:
            return parts[0], _weight_gradient(x, gradient), gradient.sum((0, 2, 3))
        return parts[0], parts[1], parts[2]


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient `(O, C, 3, 3)` of the weight from `x` `(B, C, H, W)` and the output's `(B, O, H, W)`."""
    _, channels, height, width = x.shape
    out = x.new_zeros(3, gradient.shape[1], 3 * channels)  # a row of the kernel each
    # An image with its neighbours to the left and to the right as channels, between two rows of zeros: the rows of the
    # kernel see it shifted by a row each, which is a slice.
    padded = x.new_zeros(height + 2, width, 3, channels)
    inner, rows = padded[1:-1], padded.view(-1, 3 * channels)
    for image, outer in zip(x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1).flatten(1, 2), strict=True):
        inner[:, 1:, 0], inner[:, :, 1], inner[:, :-1, 2] = image[:, :-1], image, image[:, 1:]
        for row in range(3):
            out[row].addmm_(outer.t(), rows[row * width : (row + height) * width])
    result: Tensor = out.unflatten(2, (3, channels)).permute(1, 3, 0, 2)
    return result
