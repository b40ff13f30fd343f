"""The blocks that are compiled and sharded one by one."""

import pytest
from test_all_networks import LABEL, NAMES, awake

from denoiselab.networks.base import blocks


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_called_lie_apart_and_hold_most_parameters(name):
    """A block whose methods are used without calling it would be neither compiled nor gathered."""
    network, x, cond = awake(name)
    found, called = blocks(network), set()
    for block in found:
        block.register_forward_hook(lambda module, *_: called.add(id(module)))
    network(x, LABEL, cond)
    assert called == {id(block) for block in found}
    inner = [id(parameter) for block in found for parameter in block.parameters()]
    assert len(inner) == len(set(inner))
    assert len(inner) >= 0.6 * len([*network.parameters()])
    assert len(found) > 1
