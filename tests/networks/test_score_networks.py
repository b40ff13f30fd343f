"""What NCSN++, EDM2's UNet and the RefineNets have in common."""

import math

import pytest
import torch

from denoiselab.networks import NCSN, EDM2UNet, NCSNpp, NCSNv2
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.ncsn_layers import InstanceNormPlus

SMALL = {"channels": 12, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,)}
SKIPS = {"progressive_input": "skip", "progressive_output": "skip", "combine": "cat"}
NETWORKS = {
    "ncsnpp": (NCSNpp, SMALL),
    "ncsnpp, skips": (NCSNpp, {**SMALL, **SKIPS}),
    "ddpmpp": (NCSNpp, {**SMALL, "fourier_scale": None, "fir": None, "progressive_input": None}),
    "edm2": (EDM2UNet, {**SMALL, "head_channels": 4, "fir": (1, 3, 3, 1)}),
    "ncsn": (NCSN, {"channels": 6, "levels": 4}),
    "ncsnv2": (NCSNv2, {"channels": 6, "multipliers": (1, 2, 3), "dilations": (1, 1, 2)}),
}
every = pytest.mark.parametrize("name", NETWORKS)


def awake(name, shape=(2, 8, 12), **options):
    """A network none of whose parameters is zero."""
    torch.manual_seed(0)
    kind, small = NETWORKS[name]
    network = kind(shape, **small, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.2)
    return network


def batch(channels=2, size=(8, 12)):
    torch.manual_seed(1)
    return torch.randn(3, channels, *size), torch.tensor([0.0, 1.2, 3.0])


@every
def test_images_of_any_shape_and_channels_become_outputs(name):
    network = awake(name, (5, 8, 12), outputs=2, image_channels=1)
    x, label = batch(5)
    cond = Conditioning(image=torch.randn(3, 1, 4, 6))
    assert network.conditioning == {"image"}
    out = network(x, label, cond)
    assert out.shape == (3, 10, 8, 12)
    assert torch.allclose(network(x[1:], label[1:], Conditioning(image=cond.image[1:])), out[1:], atol=1e-5)
    assert not torch.allclose(network(x, label, Conditioning(image=-cond.image)), out, atol=1e-3)
    with pytest.raises(ValueError, match="needs image"):
        network(x, label)


@pytest.mark.parametrize("name", ["ncsnpp", "edm2"])
def test_classes_and_augmentations_matter(name):
    options = {"num_classes": 3, **({"augmentation_features": 9} if name == "ncsnpp" else {})}
    network = awake(name, **options)
    x, label = batch()
    cond = Conditioning(class_label=torch.tensor([0, 1, 3]))
    out = network(x, label, cond)
    other = network(x, label, cond._replace(class_label=torch.tensor([1, 3, 0])))
    assert (other - out).flatten(1).abs().amax(1).min() > 1e-3
    if name == "ncsnpp":
        assert torch.equal(network(x, label, cond._replace(augmentation=torch.zeros(3, 9))), out)
        assert not torch.allclose(network(x, label, cond._replace(augmentation=torch.ones(3, 9))), out, atol=1e-3)


@every
def test_outputs_start_as_in_the_source(name):
    """NCSN++ and EDM2 start at nothing; the RefineNets do not."""
    kind, small = NETWORKS[name]
    torch.manual_seed(0)
    out = kind((2, 8, 12), **small)(*batch())
    assert (out.abs().max() < 1e-3) == (kind in (NCSNpp, EDM2UNet))


@every
def test_bad_shapes_are_refused(name):
    kind, small = NETWORKS[name]
    with pytest.raises(ValueError, match="stride of 2, which does not divide images of 7x8"):
        kind((1, 7, 8), **small)
    with pytest.raises(ValueError, match="choose network=mlp"):
        kind((4,), **small)
    with pytest.raises(ValueError, match=r"checkpoint_levels=\[9\]"):
        kind((1, 8, 8), **small, checkpoint_levels=(9,))


def test_bad_options_are_refused():
    for options, says in (
        ({"combine": "cat"}, "needs progressive_input=skip"),
        ({"channels": 3}, "channels=3"),
        ({"dropout": 1.0}, "dropout=1"),
        ({"attention_levels": (2,)}, "levels 0 to 1"),
        ({"fir": (1, 2, 1)}, "must be even"),
    ):
        with pytest.raises(ValueError, match=says):
            NCSNpp((1, 8, 8), **{**SMALL, **options})
    for options, says in (
        ({"dilations": (1, 2)}, "one for each of multipliers"),
        ({"dilations": (2, 1, 2, 4)}, "the first 1"),
        ({"channels": 1}, "compare channels"),
        ({"multipliers": (1, 1, 1, 1), "dilations": (1, 1, 1, 1)}, "one pixel"),
    ):
        with pytest.raises(ValueError, match=says):
            NCSNv2((1, 8, 8), **options)


def test_ncsns_levels_are_the_nearest():
    network = awake("ncsn")
    x, _ = batch()
    first = network(x, torch.tensor([0.0, 1.0, 3.0]))
    assert torch.equal(network(x, torch.tensor([0.4, 0.7, 9.0])), first)


def test_instance_norm_plus_keeps_what_instance_norm_loses():
    """A constant added to one channel changes the output (arXiv 1907.05600, appendix A)."""
    network = awake("ncsnv2")
    x, label = batch()
    shifted = x + torch.tensor([1.0, 0.0])[:, None, None]
    assert not torch.allclose(network(shifted, label), network(x, label), atol=1e-2)


def test_instance_norm_plus_is_its_formula_in_the_precision_of_its_input():
    """Values -1 and 1 about means 0 and 2: instance norm divides by sqrt(1 + eps), the means by sqrt(2 + eps)."""
    norm = InstanceNormPlus(2).double()
    for parameter, value in ((norm.gamma, 2.0), (norm.alpha, 3.0), (norm.beta, 0.5)):
        torch.nn.init.constant_(parameter, value)
    signs = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    x = torch.stack([signs, 2 + signs])[None]
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None, None] / math.sqrt(2 + 1e-5)
    expected = 2 * (signs / math.sqrt(1 + 1e-5) + 3 * means) + 0.5
    assert (norm(x, torch.zeros(1))[0] - expected).abs().max() <= 1e-14
