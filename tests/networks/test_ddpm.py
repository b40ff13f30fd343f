import pytest
import torch

from denoiselab.networks import Conditioning, DDPMUNet

TINY = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "groups": 8, "dropout": 0.0}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 8)])
def test_shapes_and_zero_start(shape):
    network = DDPMUNet(shape, **TINY)
    x, label = torch.randn(2, *shape), torch.tensor([3.0, 900.0])
    out = network(x, label)
    assert out.shape == x.shape
    assert not out.any()


def of_class(label):
    return Conditioning(class_label=torch.tensor([label]))


def test_time_and_class_reach_the_output():
    torch.manual_seed(0)
    network = DDPMUNet((1, 8, 8), num_classes=3, **TINY)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    x = torch.randn(1, 1, 8, 8)
    base = network(x, torch.tensor([10.0]), of_class(0))
    assert not torch.allclose(base, network(x, torch.tensor([500.0]), of_class(0)))
    assert not torch.allclose(base, network(x, torch.tensor([10.0]), of_class(3)))
    assert network.conditioning == {"class_label"}


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="stride of 2"):
        DDPMUNet((1, 9, 8), **TINY)
    with pytest.raises(ValueError, match="dropout=1"):
        DDPMUNet((1, 8, 8), **{**TINY, "dropout": 1.0})
    with pytest.raises(ValueError, match="norm_eps=-1"):
        DDPMUNet((1, 8, 8), **TINY, norm_eps=-1.0)
    with pytest.raises(ValueError, match="groups=7"):
        DDPMUNet((1, 8, 8), **{**TINY, "groups": 7})


def test_weights_start_as_in_the_source():
    """Uniform, of variance 2 / (fan in + fan out); biases zero; queries, keys and values are layers of their own."""
    torch.manual_seed(0)
    network = DDPMUNet((3, 8, 8), **{**TINY, "channels": 64})
    layers = dict(network.named_modules())
    for name, fans in (("stem", 9 * (3 + 64)), ("time.1", 64 + 256), ("up.0.0.skip", 128 + 256)):
        weight = layers[name].weight.detach()
        assert weight.abs().max() == pytest.approx((6 / fans) ** 0.5, rel=0.02)
        assert weight.std() == pytest.approx((2 / fans) ** 0.5, rel=0.05)
        assert not layers[name].bias.any()
    for weight in layers["middle.1"].qkv.weight.detach().chunk(3):
        assert weight.std() == pytest.approx(128**-0.5, rel=0.05)


def test_patches_are_channels_of_a_network_of_half_the_side():
    options = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention_levels": [], "groups": 4, "dropout": 0.0}
    patched = DDPMUNet([1, 12, 8], patch=2, outputs=2, **options)
    plain = DDPMUNet([4, 6, 4], outputs=2, **options)
    for parameter in patched.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain.load_state_dict(patched.state_dict())
    x, t = torch.randn(3, 1, 12, 8), torch.rand(3)
    pieces = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    out, inner = patched(x, t), plain(pieces, t)
    for output in (0, 1):  # of a mean and a variance
        for place, (i, j) in enumerate((i, j) for i in (0, 1) for j in (0, 1)):
            assert torch.allclose(out[:, output, i::2, j::2], inner[:, 4 * output + place], atol=1e-6)
    with pytest.raises(ValueError, match="patch=3"):
        DDPMUNet([1, 12, 8], patch=3, **options)
    with pytest.raises(ValueError, match="image_channels=1"):
        DDPMUNet([1, 12, 8], patch=2, image_channels=1, **options)
