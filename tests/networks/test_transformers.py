"""Published sizes, positions, and blocks against torch's own."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from denoiselab.networks import Conditioning, DiT, JiT, TextUNet, UViT
from denoiselab.networks.transformer import attend, rotary, rotate, sincos_positions, unpatchify

DITS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def meta(kind, *arguments, **options):
    with torch.device("meta"):
        return kind(*arguments, **options)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("size", "patch", "billions"),
    [
        ("S", 2, 6.06),
        ("S", 4, 1.41),
        ("S", 8, 0.36),
        ("B", 2, 23.01),
        ("B", 4, 5.56),
        ("B", 8, 1.42),
        ("L", 2, 80.71),
        ("L", 4, 19.70),
        ("L", 8, 5.01),
        ("XL", 2, 118.64),
        ("XL", 4, 29.05),
        ("XL", 8, 7.39),
    ],
)
def test_dit_has_the_published_operations(size, patch, billions):
    """Peebles and Xie, table 4: multiply-adds on latents of 4x32x32, classes and variance included."""
    width, depth, heads = DITS[size]
    options = {"patch": patch, "width": width, "depth": depth, "heads": heads, "num_classes": 1000, "outputs": 2}
    network = meta(DiT, (4, 32, 32), **options)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 4, 32, 32), torch.zeros(1), Conditioning(torch.zeros(1, dtype=torch.int64)))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.02)


def test_unet_with_text_is_stable_diffusions():
    """The number of parameters of CompVis/stable-diffusion-v1-4's and stabilityai/stable-diffusion-2's UNet."""
    assert count(meta(TextUNet, (4, 64, 64))) == 859_520_964
    second = meta(TextUNet, (4, 64, 64), heads=(5, 10, 20, 20), token_features=1024)
    assert count(second) == 865_910_724
    inpainting = meta(TextUNet, (4, 64, 64), image_channels=5)
    assert count(inpainting) - 859_520_964 == 5 * 320 * 9


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_sincos_positions_are_the_papers(grid):
    """Vaswani et al., section 3.5: sin and cos of pos / 10000^(2i/d), d features for each of column and row."""
    width = 16
    table = sincos_positions(width, grid).double()
    d = width // 2
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = [
                f(position / 10000 ** (2 * i / d))
                for position in (column, row)
                for f in (math.sin, math.cos)
                for i in range(d // 2)
            ]
            found = table[row * grid[1] + column]
            assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-7)


def test_rotary_attention_depends_on_relative_positions_alone():
    grid, width = (6, 5), 8
    rotation = rotary(width, grid).double()
    q, k = torch.randn(2, width, dtype=torch.float64)
    at = rotate(q.expand(1, 1, 30, width), rotation)[0, 0].unflatten(0, grid)
    by = rotate(k.expand(1, 1, 30, width), rotation)[0, 0].unflatten(0, grid)
    logits = torch.einsum("ijd,kld->ijkl", at, by)
    shifted = logits[1:, 2:, 1:, 2:]
    assert torch.allclose(shifted, logits[:-1, :-2, :-1, :-2], atol=1e-6)
    assert float(logits[2, 2].std()) > 0.1
    assert float((logits[0, 0, 1, 0] - logits[0, 0, 0, 1]).abs()) > 1e-3  # rows are told from columns
    assert torch.allclose(at.norm(dim=-1), q.norm().expand(grid), atol=1e-6)


def test_rotary_angles_are_the_papers():
    """Su et al., equation 15: a pair turns by m theta_i, theta_i = 10000^(-2(i-1)/d), for each axis of d features."""
    cos, sin = rotary(8, (3, 4)).double()
    angles = [
        [m * 10000 ** (-2 * i / 4) for m in (row, column) for i in range(2)] for row in range(3) for column in range(4)
    ]
    expected = torch.tensor(angles, dtype=torch.float64)
    assert torch.allclose(cos, expected.cos(), atol=1e-7)
    assert torch.allclose(sin, expected.sin(), atol=1e-7)


def test_patches_come_back_where_they_were():
    image = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    tokens = [
        image[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].permute(0, 2, 3, 1).flatten(1)
        for i in range(2)
        for j in range(3)
    ]
    assert torch.equal(unpatchify(torch.stack(tokens, dim=1), 2, (2, 3)), image)


def test_attention_is_softmax_of_scaled_products():
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    mask = torch.tensor([[True] * 6, [True, False] * 3])
    logits = (q @ k.transpose(2, 3) / 2).masked_fill(~mask[:, None, None], -math.inf)
    expected = (logits.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(2, 5, 12)
    assert torch.allclose(attend(q, k, v, mask), expected)


def test_uvit_is_torchs_encoder_with_long_skips():
    """The whole forward pass from Bao et al., section 3, with torch's pre-norm encoder layers as blocks."""
    torch.manual_seed(0)
    width, shape = 16, (3, 4, 4)
    network = UViT(shape, width=width, depth=5, heads=2, num_classes=4, mlp_ratio=2.0).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def reference(block):
        layer = torch.nn.TransformerEncoderLayer(
            width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64
        )
        state = {
            "self_attn.in_proj_weight": block.attention.qkv.weight,
            "self_attn.in_proj_bias": torch.zeros(3 * width),
            **{f"self_attn.out_proj.{k}": v for k, v in block.attention.out.state_dict().items()},
            **{f"norm1.{k}": v for k, v in block.norm_attention.state_dict().items()},
            **{f"norm2.{k}": v for k, v in block.norm_mlp.state_dict().items()},
            **{f"linear1.{k}": v for k, v in block.mlp.hidden.state_dict().items()},
            **{f"linear2.{k}": v for k, v in block.mlp.out.state_dict().items()},
        }
        layer.load_state_dict(state)
        return layer

    x, label, classes = (
        torch.randn(2, *shape, dtype=torch.float64),
        torch.tensor([3.0, 70.0]).double(),
        torch.tensor([1, 4]),
    )
    steps = label[:, None] * 10000 ** (-torch.arange(8).double() / 8)
    time = torch.cat((steps.cos(), steps.sin()), dim=1)
    h = torch.cat((network.classes(classes)[:, None], time[:, None], network.patches(x)), dim=1) + network.positions
    first = reference(network.down[0])(h)
    second = reference(network.down[1])(first)
    h = reference(network.middle)(second)
    for block, skip in zip(network.up, (second, first), strict=True):
        h = reference(block)(block.join(torch.cat((h, skip), dim=-1)))
    expected = network.conv(unpatchify(network.head(network.norm(h))[:, 2:], 2, (2, 2)))
    out = network(x, label, Conditioning(classes))
    assert float(((out - expected).abs().max() / out.std()).detach()) < 1e-5


def test_the_class_stands_beside_the_patches_from_a_block_on():
    """Of JiT: tokens of the class are turned by no angle, and without classes there are none."""
    options = {"patch": 2, "width": 16, "depth": 2, "heads": 2, "bottleneck": 4, "context_tokens": 3, "context_from": 1}
    network = JiT((1, 4, 4), num_classes=2, **options)
    seen = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda module, given: seen.append((given[0].shape[1], given[2])))
    network(torch.zeros(1, 1, 4, 4), torch.zeros(1), Conditioning(torch.zeros(1, dtype=torch.int64)))
    assert [tokens for tokens, _ in seen] == [4, 7]
    cos, sin = seen[1][1]
    assert torch.equal(cos[:3], torch.ones(3, 4))
    assert not sin[:3].any()
    assert torch.equal(seen[1][1][:, 3:], seen[0][1])
    assert JiT((1, 4, 4), **options).context is None
    with pytest.raises(ValueError, match="context_from=2"):
        JiT((1, 4, 4), **{**options, "context_from": 2})
