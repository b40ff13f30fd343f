"""Compiling in place: names, numbers of graphs, and what is left uncompiled."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from denoiselab.networks.base import blocks
from denoiselab.training.preparing import Preparation


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width + 1)

    def forward(self, x):
        return self.linear(x).relu()


class Chain(nn.Module):
    """Blocks of one class, each of another shape."""

    def __init__(self, count=10, block=Block):
        super().__init__()
        self.blocks = nn.ModuleList(block(width) for width in range(2, 2 + count))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Leaving(Block):
    def forward(self, x):
        out = super().forward(x)
        return out + 1 if float(out.sum()) > 0 else out


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def test_each_block_is_compiled_though_they_share_a_class_and_names_stay():
    network, x = Chain(), torch.ones(3, 2)
    names, want = [*network.state_dict()], network(x)
    preparation = Preparation("per_block", backend="eager")
    preparation(network)
    assert torch.equal(network(x), want)
    with torch.no_grad():
        network(x)
    found = preparation.compiled
    assert (found.graphs, found.breaks, found.limit) == (20, {}, False)
    assert [*network.state_dict()] == names
    with preparation.suspended():
        assert torch.allclose(network(torch.ones(7, 2))[:3], want)
    assert preparation.compiled == found
    preparation.undo()
    assert preparation.compiled is None
    assert torch.allclose(network(torch.ones(5, 2))[:3], want)
    assert counters["stats"]["unique_graphs"] == 20


def test_without_more_room_the_ninth_block_would_run_uncompiled():
    """The naive way: the trap is still there, so the room is still needed."""
    network = Chain()
    with torch._dynamo.config.patch(recompile_limit=8):
        for block in blocks(network):
            block.compile(backend="eager")
        network(torch.ones(3, 2))
    assert counters["stats"]["unique_graphs"] == 8


def test_graph_breaks_are_counted_with_their_reason():
    network = Chain(2, Leaving)
    preparation = Preparation("per_block", backend="eager")
    preparation(network)
    network(torch.ones(3, 2))
    assert sum(preparation.compiled.breaks.values()) > 0
    assert "graph breaks: " in str(preparation.compiled)


def test_a_network_without_blocks_is_compiled_whole_only():
    with pytest.raises(ValueError, match="compile=per_block: Linear keeps no blocks"):
        Preparation("per_block")(nn.Linear(2, 2))
    whole = Preparation("whole", backend="eager")
    network = nn.Linear(2, 2)
    whole(network)
    network(torch.ones(3, 2))
    assert whole.compiled.graphs == 1
