"""Training steps in bfloat16 of weights that stay in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


class HalfSteps:
    """Puts copies of a network's weights in bfloat16 in their place, from a forward pass to the end of its backward.

    The copies are functions of the weights: gradients arrive at these, in float32, where the optimizer, averages and
    checkpoints have them, so updates smaller than bfloat16's rounding count. Activations, norms too, are in bfloat16,
    unlike in mixed precision. Time labels stay as they are, and so do buffers of the network's state, such as random
    frequencies, whose modules' outputs are rounded instead. The output is in float32.

    Source: the mixed precision of Micikevicius et al., arXiv 1710.03740, section 3.1 (float32 master weights).

    Args:
        network: Called as `denoiselab.networks.Network` documents; between steps it is as it was.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._own: list[tuple[dict[str, Any], str, Tensor]] = []
        network.register_forward_pre_hook(self._enter)
        network.register_forward_hook(self._leave)
        for module in network.modules():
            if module is not network and any(True for _ in _state(module)):
                module.register_forward_hook(self._round)

    def begin(self) -> None:
        """Have the copies until `end`."""
        if self._own:
            return
        copies: dict[int, Tensor] = {}
        for module in self._network.modules():
            kept = {id(buffer) for buffer in _state(module)}
            for place, name, tensor in _tensors(module):
                if tensor.dtype != torch.float32 or id(tensor) in kept:
                    continue
                self._own.append((place, name, tensor))
                place[name] = copies.setdefault(id(tensor), tensor.bfloat16())

    def end(self) -> None:
        """Have the weights again."""
        for place, name, tensor in self._own:
            place[name] = tensor
        self._own = []

    def _enter(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self._own:
            return None
        x, label, *rest = given
        return (_rounded(x), label, *map(_rounded, rest[:1]), *rest[1:])

    def _leave(self, module: nn.Module, given: Any, out: Any) -> Any:
        return tree_map_only(Tensor, Tensor.float, out) if self._own else None

    def _round(self, module: nn.Module, given: Any, out: Any) -> Any:
        return _rounded(out) if self._own else None


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """The own parameters and buffers of a module, with the dictionary and the name that they have there."""
    for place in (module._parameters, module._buffers):
        for name, tensor in [*place.items()]:
            if tensor is not None:
                yield place, name, tensor


def _state(module: nn.Module) -> Iterator[Tensor]:
    """The own buffers of floats that are saved with a module; what can be computed again is not."""
    names = module._buffers.keys() - module._non_persistent_buffers_set
    yield from (one for name in names if (one := module._buffers[name]) is not None and one.is_floating_point())


def _rounded(value: Any) -> Any:
    """Floats in bfloat16, in tensors and in what holds them."""
    return tree_map_only(Tensor, lambda one: one.bfloat16() if one.is_floating_point() else one, value)
