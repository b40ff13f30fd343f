"""What a network costs: parameters, multiplications and memory, measured by one call each way."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from denoiselab.networks.conditioning import Conditioning


class Summary(NamedTuple):
    """A network's costs.

    Args:
        parameters: Their number.
        forward_flops: Of a forward pass of one image; a multiplication and an addition are two. Convolutions, matrix
            products and attention are counted.
        activation_bytes: Of what is kept for the backward pass of one image, beside the weights.
    """

    parameters: int
    forward_flops: int
    activation_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters; {self.forward_flops / 1e9:.3g} GFLOPs forward and "
            f"{self.activation_bytes / 2**20:.3g} MiB of activations an image"
        )


def summarize(network: nn.Module, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Summary:
    """Measure a network; on the meta device nothing is computed, so that it takes milliseconds at any size.

    Args:
        network: In the mode, and of the dtype, that matters.
        x: `(B, *)`, with B >= 2 so that nothing of a batch is broadcast.
        label: `(B,)`.
        cond: What the network takes.
    """
    kept: dict[int, tuple[Any, int]] = {}
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:  # a view counts once, with what it is a view of
            kept[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, label, cond)
    return Summary(
        sum(parameter.numel() for parameter in network.parameters()),
        counter.get_total_flops() // len(x),
        sum(size for _, size in kept.values()) // len(x),
    )
