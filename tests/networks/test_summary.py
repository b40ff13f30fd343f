import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from denoiselab.networks import ADMUNet, Conditioning, DDPMUNet
from denoiselab.networks.summary import Operations, summarize


class Two(nn.Module):
    """Linear, then attention with one head."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 10)

    def forward(self, x, label, cond):
        h = self.linear(x)[:, None]
        return nn.functional.scaled_dot_product_attention(h, h, h)


def test_costs_of_a_network_that_can_be_counted_by_hand():
    """Kept: the input 5x6, what goes into attention 5x10 and what comes out, 5 logarithms of sums; weights are not."""
    summary = summarize(Two(), torch.zeros(2, 5, 6), torch.zeros(2))
    assert summary.parameters == 70
    assert summary.forward_flops == 2 * 5 * 6 * 10 + 4 * 5 * 5 * 10
    assert summary.activation_bytes == 4 * (5 * 6 + 5 * 10 + 5 * 10 + 5)


def test_operations_are_those_of_torchs_counter():
    network = ADMUNet((3, 16, 16), 32, (1, 2), 1, (1,), num_classes=3).eval()
    inputs = (torch.zeros(2, 3, 16, 16), torch.zeros(2), Conditioning(class_label=torch.zeros(2, dtype=torch.int64)))
    kernel = torch.nn.attention.SDPBackend.MATH  # torch has no formula for that of the CPU
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(kernel):
        with FlopCounterMode(display=False) as theirs:
            network(*inputs)
        with Operations() as ours:
            network(*inputs)
    assert ours.total == theirs.get_total_flops() > 0


def test_costs_of_adm_are_the_published_ones():
    """1,120 G multiply-adds at 256x256 (Peebles and Xie, arXiv 2212.09748, section 5); folding saves 5% of them."""
    cond = Conditioning(class_label=torch.zeros(2, dtype=torch.int64))
    with torch.device("meta"):
        network = ADMUNet((3, 256, 256), 256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), num_classes=1000, outputs=2)
    summary = summarize(network, torch.zeros(2, 3, 256, 256), torch.zeros(2), cond)
    assert summary.forward_flops / 2e9 == pytest.approx(1120, rel=0.06)
    assert str(summary).startswith("553.84 M parameters, 2.13e+03 GFLOPs forward and")


def test_checkpointing_and_the_mode_are_seen_and_the_network_stays_as_it_is():
    network = DDPMUNet((3, 32, 32), channels=32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = (torch.zeros(2, 3, 32, 32), torch.zeros(2))
    plain = summarize(network, *inputs)
    assert summarize(network.eval(), *inputs).activation_bytes < plain.activation_bytes  # no masks of dropout
    again = summarize(DDPMUNet((3, 32, 32), channels=32, checkpoint_levels=(0, 1, 2, 3)), *inputs)
    assert again.activation_bytes < plain.activation_bytes / 4
    assert again[:2] == plain[:2]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
