"""Sharding of what is trained over devices by torch's `fully_shard` (FSDP2), and its use as a whole in between.

Source: Zhao et al., PyTorch FSDP, arXiv 2304.11277; Rajbhandari et al., ZeRO, arXiv 1910.02054 (stage 3).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from denoiselab.errors import BadInput
from denoiselab.training.sharded_tensors import whole as whole_tensor


def shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh) -> frozenset[str]:
    """Shard each block, then the rest with the root, in place.

    The root is the whole LightningModule and `training_step` its forward, so that all parameters are sharded, those of
    the objective and of a learned schedule too, and are whole wherever a training step uses them. Parameters must be
    equal on all ranks.

    Args:
        module: The root, with methods `training_step` and `touch`.
        blocks: Within it; each is used only by calling it.
        mesh: Of one axis.

    Returns:
        Names of the parameters that had no axis, and have one now.

    Raises:
        BadInput: If a parameter is in several blocks.
    """
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (other := first.setdefault(id(parameter), name)) != name:
            raise BadInput(
                f"trainer.strategy=fsdp2: the parameter {name} is {other}, too, and each can be in one place alone; "
                "use trainer=ddp."
            )
    numbers = frozenset(name for name, parameter in module.named_parameters() if parameter.ndim == 0)
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            # Sharded are contiguous parameters with an axis: a number gets one, and channels are no longer last.
            changed = parameter.detach().reshape(1) if parameter.ndim == 0 else parameter.detach().contiguous()
            setattr(part, name, nn.Parameter(changed, requires_grad=parameter.requires_grad))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for method in ("training_step", "touch"):
        register_fsdp_forward_method(module, method)
    return numbers


@contextmanager
def whole(module: nn.Module, numbers: Container[str]) -> Iterator[None]:
    """Within it a sharded module has all parameters whole on every rank, and calls nothing of other ranks.

    All ranks enter together; within it each may call the network as often as it needs: ranks draw different numbers of
    batches. Gathering at each call, as `fully_shard` does, would hang there; its `unshard` would be undone by
    `state_dict`.

    Args:
        module: The root.
        numbers: As `shard` returned them.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.reshard()
    hooks = [(part, type(part), part._forward_pre_hooks, part._forward_hooks) for part in parts]
    own = []
    for name, parameter in module.named_parameters():
        full = whole_tensor(parameter.detach())
        place, _, key = name.rpartition(".")
        made = nn.Parameter(full.reshape(()) if name in numbers else full, parameter.requires_grad)
        own.append((module.get_submodule(place), key, parameter, made))
    try:
        for owner, key, _, made in own:
            setattr(owner, key, made)
        for part in parts:
            part.__class__ = type(part).__mro__[2]  # its own: `fully_shard` made a class of `FSDPModule` and that
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, kind, before, after in hooks:
            part.__class__, part._forward_pre_hooks, part._forward_hooks = kind, before, after
        for owner, key, parameter, _ in own:
            setattr(owner, key, parameter)
