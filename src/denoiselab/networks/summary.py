"""The costs of a network, parameters, operations and memory, found without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from denoiselab.networks.conditioning import Conditioning


class Summary(NamedTuple):
    """A network's costs.

    Attributes:
        parameters: Their number.
        forward_flops: Of a forward pass of one image, in convolutions, matrix products and attention; a multiplication
            and its addition count as two.
        activation_bytes: Memory of what is kept of one image for the backward pass, without the weights.
    """

    parameters: int
    forward_flops: int
    activation_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.forward_flops / 1e9:.3g} GFLOPs forward and "
            f"{self.activation_bytes / 2**20:.3g} MiB of activations an image"
        )


def summarize(
    network: nn.Module, x: Tensor, label: Tensor | None = None, cond: Conditioning | None = Conditioning()
) -> Summary:
    """The costs of a network, from a call with fake tensors, in less than a second.

    Args:
        network: On any device, in the mode and dtype to be summarised.
        x: `(B, *)`, on the CPU.
        label: `(B,)`; None for a network that is called without.
        cond: The conditions that the network takes; None for one that is called without.
    """
    kept: dict[int, Any] = {}  # storages: a view counts once, with what it is a view of

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    mode = FakeTensorMode()
    with mode:  # all of it on the CPU, where attention keeps no matrix of its weights
        state = {
            name: torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu").requires_grad_(
                value.requires_grad
            )
            for name, value in (*network.named_parameters(), *network.named_buffers())
        }
    inputs: list[Any] = [mode.from_tensor(one) for one in (x, label) if one is not None]
    if cond is not None:
        given = (None if value is None else mode.from_tensor(value) for value in cond)
        inputs.append(Conditioning(*given))
    counter = Operations()
    with mode, torch.enable_grad(), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        functional_call(network, state, tuple(inputs))
    for value in state.values():
        kept.pop(value.untyped_storage()._cdata, None)
    return Summary(
        sum(parameter.numel() for parameter in network.parameters()),
        counter.total // len(x),
        sum(storage.nbytes() for storage in kept.values()) // len(x),
    )


class Operations(TorchDispatchMode):
    """Counts the operations of convolutions, matrix products and attention, on any device.

    The formulas are those of `torch.utils.flop_counter`, whose own context imports torch._dynamo, which takes 2 s.

    Attributes:
        total: A multiplication and its addition count as two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is None and func.namespace == "aten" and _is_composite(func.name(), _COMPOSITE.name):
            with self:  # not `decompose`, whose kernels in Python import sympy
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_is_composite = torch._C._dispatch_has_kernel_for_dispatch_key


def _attention(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """Of shapes (B, N, T, D), (B, N, L, D) and (B, N, L, D'): both products."""
    batch, heads, length, features = q
    return int(2 * batch * heads * length * k[2] * (features + v[3]))


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """Four products; the scores, which the kernel computes again, do not count."""
    return 2 * _attention(q, k, v)


# Those of torch have the kernels of attention on GPUs only.
_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attention),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attention_backward),
}
