"""Steps in bfloat16 of weights in float32."""

import pytest
import torch
from torch import nn

from denoiselab.networks import DiT, EDM2UNet
from denoiselab.networks.base import blocks
from denoiselab.testing.networks import wake
from denoiselab.trained.half import HalfSteps
from denoiselab.training.ema import EMA, Constant
from denoiselab.training.preparing import Preparation


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, label, cond=None):
        return self.weight * x


def steps(network, around, count=100, rate=1e-4):
    """Steps of SGD, each of which lowers the weights by `rate`."""
    ema = EMA({"ema": Constant(0.9)})
    ema.start(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for step in range(count):
        around.begin()
        network(torch.ones(1, 4, dtype=network.weight.dtype), torch.zeros(1)).sum().backward()
        around.end()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(network, step + 1, 1)
    return network.weight.detach().float(), ema.averages["ema"]["weight"]


class Nothing:
    def begin(self): ...

    end = begin


def test_updates_smaller_than_bfloat16_rounds_are_kept():
    """1 - 1e-4 is 1 in bfloat16, so weights in it never move."""
    lost, average = steps(Scale().bfloat16(), Nothing())
    assert torch.equal(lost, torch.ones(4))
    assert torch.equal(average, torch.ones(4))
    network = Scale()
    kept, average = steps(network, HalfSteps(network))
    assert torch.allclose(kept, torch.full((4,), 1 - 0.01), atol=1e-6)
    assert torch.allclose(average, kept + 9e-4, atol=1e-5)  # nine steps behind
    assert network.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["dit", "dit recomputed", "edm2"])
def test_gradients_are_those_of_the_network_to_bfloat16(kind):
    """EDM2's random frequencies are not rounded: labels of 100 times them would be other angles."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    levels = "all" if kind == "dit recomputed" else ()
    options = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}
    network = (
        EDM2UNet((2, 8, 8), **options) if kind == "edm2" else DiT((2, 8, 8), width=32, depth=2, heads=2,
                                                                  checkpoint_levels=levels)
    )  # fmt: skip
    wake(network, draw)
    x, label = torch.randn(3, 2, 8, 8, generator=draw), torch.tensor([1.0, 50.0, 99.0])
    names, buffers = [*network.state_dict()], {k: v.clone() for k, v in network.named_buffers()}

    def gradients(around):
        network.zero_grad()
        around.begin()
        out = network(x, label)
        seen = {parameter.dtype for parameter in dict(network.named_modules())[first]._parameters.values()}
        out.square().sum().backward()
        around.end()
        return out.detach(), torch.cat([p.grad.flatten() for p in network.parameters()]), seen

    first = next(name for name, module in network.named_modules() if module._parameters)
    out, want, seen = gradients(Nothing())
    assert seen == {torch.float32}
    found, got, seen = gradients(HalfSteps(network))
    assert seen == {torch.bfloat16}
    assert found.dtype == got.dtype == torch.float32
    assert (found - out).norm() < 0.03 * out.norm()
    assert (got - want).norm() < 0.05 * want.norm()
    assert (got != want).any()
    again, _, _ = gradients(Nothing())
    assert torch.equal(again, out)  # the hooks do nothing between steps
    assert [*network.state_dict()] == names
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())


def test_compiled_blocks_are_compiled_once():
    """The copies are other tensors in each step."""
    torch.compiler.reset()
    network = DiT((2, 4, 4), width=16, depth=2, heads=2)
    preparation = Preparation("per_block", half=True, backend="eager")
    preparation(network)
    graphs = []
    for _ in range(3):
        preparation.begin_step()
        network(torch.ones(2, 2, 4, 4), torch.ones(2)).sum().backward()
        preparation.end_step()
        graphs.append(preparation.compiled.graphs)
    assert graphs == [graphs[0]] * 3
    assert graphs[0] <= len(blocks(network))
    assert not preparation.compiled.breaks
    torch.compiler.reset()
