"""The blocks of a network: what is compiled, and what is sharded, one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_LISTS = (nn.ModuleList, nn.ModuleDict)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The outermost modules whose class stands in a `ModuleList` of the network, in its order.

    That is a transformer's blocks and the levels or residual blocks of a UNet, with modules of the same class that
    stand alone, such as a middle. All are called, so hooks on them are, too. Modules without parameters are none.

    Args:
        network: Of any class; one without such lists has no blocks.
    """
    listed = {
        type(part)
        for parts in network.modules()
        if isinstance(parts, _LISTS)
        for part in parts.children()
        if type(part) not in _LISTS
    }
    return list(_outermost(network, listed))


def _outermost(module: nn.Module, classes: set[type[nn.Module]]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in classes and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _outermost(child, classes)
