"""ADM's and improved DDPM's networks against the sizes that their papers print."""

import pytest
import torch
import torch.nn.functional as F
from configurations import build

from denoiselab.networks import ADMClassifier, ADMUNet, Conditioning
from denoiselab.networks.adm import AttentionPool
from denoiselab.networks.layers import ResidualBlock

TINY = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), "groups": 8, "head_channels": 8}


def millions(group, name, size, *overrides):
    with torch.device("meta"):
        network = build(group, name, f"shape=[3,{size},{size}]", *overrides)
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)


def test_parameters_without_classes_are_the_published_ones():
    """LSUN at 256 (Dhariwal and Nichol, table 11): 552 M, of which 552.81 M is cut, not rounded."""
    assert int(millions("network", "adm_256", 256, "outputs=2")) == 552


@pytest.mark.parametrize(
    ("name", "size", "paper"), [("adm", 64, 65), ("adm_128", 128, 43), ("adm_256", 256, 54), ("adm_512", 512, 54)]
)
def test_parameters_of_the_classifiers_are_the_published_ones(name, size, paper):
    assert round(millions("classifier", name, size, "num_classes=1000")) == paper


def test_blocks_are_those_of_the_paper():
    """h + conv(silu((1 + s) norm(conv(up(silu(norm(x))))) + b)), written out, with the doubling not folded."""
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 6, 0.0, 2, scale_shift=True, up=True)
    torch.nn.init.normal_(block.conv_out.weight, std=0.2)
    x, embedding = torch.randn(2, 8, 16, 16), torch.randn(2, 6)
    norm = lambda layer, h: F.group_norm(h, 2, layer.weight, layer.bias, 1e-5)  # noqa: E731
    double = lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
    h = F.conv2d(double(F.silu(norm(block.norm_in, x))), block.conv_in.weight, block.conv_in.bias, padding=1)
    scale, shift = block.embedding(embedding)[:, :, None, None].chunk(2, 1)
    want = double(x) + block.conv_out(F.silu((1 + scale) * norm(block.norm_out, h) + shift))
    assert torch.allclose(block(x, embedding), want, atol=1e-5)


def test_a_small_image_is_resized_bilinearly_and_joined():
    network = ADMUNet((3, 8, 8), image_channels=3, **TINY).eval()
    torch.nn.init.normal_(network.head.weight)
    x, small, label = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4), torch.tensor([1.0, 2.0])
    large = F.interpolate(small, (8, 8), mode="bilinear", align_corners=False)
    out = network(x, label, Conditioning(image=small))
    assert torch.allclose(out, network(x, label, Conditioning(image=large)), atol=1e-6)


def test_attention_pooling_is_one_query_of_full_attention():
    pool = AttentionPool(16, 8, 2, 5).double()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat((tokens.mean(1, keepdim=True), tokens), 1) + pool.position
    full = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    full.in_proj_weight, full.in_proj_bias = pool.qkv.weight, pool.qkv.bias
    full.out_proj.weight, full.out_proj.bias = (
        torch.nn.Parameter(torch.eye(8).double()),
        torch.nn.Parameter(x.new_zeros(8)),
    )
    assert torch.allclose(pool(x), pool.out(full(tokens, tokens, tokens)[0][:, 0]))


def test_the_classifier_learns_noisy_classes():
    torch.manual_seed(0)
    network = ADMClassifier((1, 8, 8), 4, **TINY)
    means = torch.randn(4, 1, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(40):
        classes = torch.randint(4, (16,))
        logits = network(means[classes] + 0.5 * torch.randn(16, 1, 8, 8), torch.zeros(16))
        loss = F.cross_entropy(logits, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head_channels": 7}, "head_channels=7: it must divide the 32 channels"),
        ({"head_channels": None, "heads": 3}, "heads=3: it must divide the 32 channels"),
        ({"multipliers": (1, 1.3)}, "groups=8 must divide"),
        ({"attention_levels": (2,)}, "attention_levels"),
        ({"checkpoint_levels": (2,)}, "checkpoint_levels"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"image_channels": 0}, "image_channels=0"),
        ({"channels": 3}, "channels=3"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        ADMUNet((3, 8, 8), **{**TINY, **options})
