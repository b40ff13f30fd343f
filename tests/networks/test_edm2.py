import copy
import math

import pytest
import torch

from denoiselab.networks import EDM2UNet
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.layers import Constrained
from denoiselab.networks.magnitude import MPBlock, MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalize

TINY = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}


def rms(x):
    return float(x.square().mean().sqrt())


def test_layers_preserve_magnitude():
    """The paper's aim, section 2: of unit inputs, independent of each other, come unit outputs."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 48, 16, 16), torch.randn(64, 16, 16, 16)
    assert rms(
        MPConv(48, 64, 3)(torch.nn.functional.pad(x, (1,) * 4, mode="circular"))[..., 2:-2, 2:-2]
    ) == pytest.approx(1, abs=0.02)
    assert rms(MPConv(48, 64)(torch.randn(4096, 48))) == pytest.approx(1, abs=0.03)
    assert rms(mp_silu(torch.randn(10**6))) == pytest.approx(1, abs=0.003)
    assert rms(MPFourier(512)(3 * torch.randn(512))) == pytest.approx(1, abs=0.01)
    for t in (0.0, 0.3, 0.5, 1.0):
        assert rms(mp_sum(x, x.flip(0), t)) == pytest.approx(1, abs=0.01)
        assert rms(mp_cat(x, y, t)) == pytest.approx(1, abs=0.01)
    half = mp_cat(x, y, 0.5)
    # Each of the two brings half of the energy, whatever its number of channels.
    assert rms(half[:, :48]) * math.sqrt(48) == pytest.approx(rms(half[:, 48:]) * math.sqrt(16), rel=0.01)
    assert rms(normalize(7 * x, 1)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("encoder", [True, False])
def test_a_fresh_block_preserves_magnitude(encoder):
    torch.manual_seed(0)
    block = MPBlock(32, 64, 16, encoder, torch.nn.Identity(), 4, 0.0, 0.3, 0.3, 256.0)
    out = block(torch.randn(16, 32, 16, 16), torch.randn(16, 16))
    # A 3x3 kernel reads zeros beyond the border, which takes a few percent; attention averages its values.
    assert 0.85 < rms(out) < 1.05


def test_the_magnitude_of_weights_does_not_matter_and_gradients_are_across_them():
    torch.manual_seed(0)
    layer = MPConv(8, 4, 3)
    x = torch.randn(2, 8, 6, 6)
    out = layer(x)
    (out * torch.randn_like(out)).sum().backward()
    along = (layer.weight.grad * layer.weight).sum((1, 2, 3)) / layer.weight.grad.flatten(1).norm(dim=1)
    assert along.abs().max() < 1e-2  # but for the small number that keeps zeros from being divided by 0
    with torch.no_grad():
        layer.weight.mul_(3)
    assert torch.allclose(layer(x), out, rtol=1e-3, atol=1e-4)


def test_weights_are_brought_back_as_in_the_source():
    """Constrained after each step, weights take the same way as the source's, which are before each forward pass."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 8), torch.randn(32, 4)
    ours = MPConv(8, 4)
    theirs = copy.deepcopy(ours)
    steps = [torch.optim.Adam(layer.parameters(), lr=0.05) for layer in (ours, theirs)]
    lengths = []
    for _ in range(20):
        with torch.no_grad():
            theirs.weight.copy_(normalize(theirs.weight, 1))
        for layer, step in zip((ours, theirs), steps, strict=True):
            step.zero_grad()
            (layer(x) - y).square().mean().backward()
            step.step()
        lengths.append(rms(ours.weight))
        ours.constrain()
    # The two normalize equally often but for the first time, on weights that are normal already.
    assert torch.allclose(ours(x), theirs(x), atol=2e-3)
    assert rms(ours.weight) == pytest.approx(1, abs=1e-3)
    assert max(lengths) > 1.0005  # a step alone does make them longer


def test_passes_have_no_side_effects():
    """Two forward passes before one backward, and a pass without gradients in between."""
    torch.manual_seed(0)
    network = EDM2UNet((1, 8, 8), **TINY).train()
    with torch.no_grad():
        network.gain.fill_(1.0)
    before = {name: p.clone() for name, p in network.named_parameters()}
    x, label = torch.randn(2, 1, 8, 8), torch.randn(2)
    loss = network(x, label).square().mean() + network(-x, label).square().mean()
    with torch.no_grad():
        network(x, label)
    loss.backward()
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert sum(isinstance(layer, Constrained) for layer in network.modules()) == sum(
        isinstance(layer, MPConv) for layer in network.modules()
    )


def test_the_null_class_is_no_class():
    torch.manual_seed(0)
    network = EDM2UNet((1, 8, 8), num_classes=3, label_balance=0.0, **TINY)
    told = EDM2UNet((1, 8, 8), num_classes=3, **TINY)
    told.load_state_dict(network.state_dict())
    with torch.no_grad():
        for model in (network, told):
            model.gain.fill_(1.0)
            for block in model.modules():
                if isinstance(block, MPBlock):
                    block.embedding_gain.fill_(1.0)
    x, label = torch.randn(2, 1, 8, 8), torch.randn(2)
    zero, null = (Conditioning(class_label=torch.tensor(pair)) for pair in ([0, 1], [3, 3]))
    assert torch.allclose(network(x, label, zero), network(x, label, null))  # weight 0: the class counts for nothing
    assert not torch.allclose(told(x, label, zero), told(x, label, null), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label_balance": 1.5}, "label_balance=1.5"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"head_channels": 5}, "head_channels=5"),
        ({"blocks": 0}, "blocks=0"),
        ({"fir": (1, 2, 1)}, "even"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        EDM2UNet((1, 8, 8), **{**TINY, **options})


def test_double_precision_is_taken():
    torch.manual_seed(0)
    network = EDM2UNet((2, 8, 8), **TINY)
    network.gain.data.fill_(0.7)
    x, label = torch.randn(2, 2, 8, 8), torch.tensor([0.1, 0.4])
    single, double = network(x, label), network.double()(x.double(), label)
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)
