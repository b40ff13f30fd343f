"""The blocks that are compiled and sharded one by one; steps in bfloat16."""

import pytest
import torch
from test_all_networks import LABEL, NAMES, awake

from denoiselab.networks.base import blocks
from denoiselab.trained.half import HalfSteps


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


@pytest.mark.parametrize("name", NAMES)
def test_steps_in_bfloat16_are_near_those_in_float32(name):
    network, x, cond = awake(name)
    with torch.no_grad():
        want = network.train()(x, LABEL, cond)
    steps = HalfSteps(network)
    steps.begin()
    got = network(x, LABEL, cond)
    got.sum().backward()
    steps.end()
    assert (got - want).norm() < 0.04 * want.norm()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32} == {got.dtype}
