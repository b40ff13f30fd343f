"""The controlled UNet against diffusers' `ControlNetModel`, and what of it trains."""

import diffusers
import pytest
import torch

from denoiselab.interop.diffusers.unet_text import unet_condition
from denoiselab.networks import Conditioning, ControlledTextUNet

SIZES = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
}
HINTS = (16, 32)


@torch.no_grad()
def drawn(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


@pytest.fixture(scope="module")
def networks():
    """A UNet of diffusers, its control, and ours with the UNet's weights."""
    unet = drawn(
        diffusers.UNet2DConditionModel(**SIZES, sample_size=4, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    )
    control = drawn(
        diffusers.ControlNetModel(**SIZES, conditioning_channels=1, conditioning_embedding_out_channels=HINTS)
    )
    layout = unet_condition(dict(unet.config))
    options = {key: value for key, value in layout.options.items() if key != "image_channels"}
    ours = ControlledTextUNet(**options, image_channels=1, hint_channels=HINTS)
    ours.load_state_dict(ours.start(layout.to_ours(unet.state_dict(), "unet")))
    return unet, control, layout, ours.eval()


def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 4, 4, 4), (2, 5, 6), (2, 1, 8, 8))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def test_it_starts_at_the_frozen_network_and_equals_diffusers_with_its_weights(networks):
    unet, control, layout, ours = networks
    x, tokens, image = inputs()
    cond = Conditioning(tokens=tokens, image=image)
    plain = unet(x, 7, encoder_hidden_states=tokens).sample
    assert float((ours(x, torch.full((2,), 7.0), cond) - plain).abs().max()) < 1e-5
    state, theirs = ours.state_dict(), control.state_dict()
    for entry in layout.entries:
        if f"control.{entry.ours}" in state:
            state[f"control.{entry.ours}"] = entry.way.ours(*(theirs[name] for name in entry.theirs))
    layers = ["conv_in", "blocks.0", "blocks.1", "conv_out"]
    for end in ("weight", "bias"):
        for place, name in zip((0, 2, 4, 6), layers, strict=True):
            state[f"hint.{place}.{end}"] = theirs[f"controlnet_cond_embedding.{name}.{end}"]
        for place in range(4):
            state[f"joins.{place}.{end}"] = theirs[f"controlnet_down_blocks.{place}.{end}"]
        state[f"join_middle.{end}"] = theirs[f"controlnet_mid_block.{end}"]
    other = ControlledTextUNet(**{**layout.options, "image_channels": 1}, hint_channels=HINTS).eval()
    other.load_state_dict(state)
    down, middle = control(x, 7, encoder_hidden_states=tokens, controlnet_cond=image, return_dict=False)
    expected = unet(
        x,
        7,
        encoder_hidden_states=tokens,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    assert float((expected - plain).abs().max()) > 0.05
    assert float((other(x, torch.full((2,), 7.0), cond) - expected).abs().max()) < 1e-4 * float(expected.std())


def test_only_the_copy_trains_and_the_frozen_network_has_no_dropout(networks):
    *_, ours = networks
    x, tokens, image = inputs()
    ours.train()
    assert not ours.middle.training
    assert ours.control.middle.training
    ours(x, torch.full((2,), 7.0), Conditioning(tokens=tokens, image=image)).square().mean().backward()
    moved = {name.partition(".")[0] for name, value in ours.named_parameters() if value.grad is not None}
    assert moved == {"control", "hint", "joins", "join_middle"}
    assert float(ours.joins[0].weight.grad.abs().max()) > 0  # not stuck at zero
    ours.eval()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the network needs image"):
        ControlledTextUNet([4, 4, 4], channels=32, multipliers=[1], attention_levels=[0], token_features=6)(
            torch.zeros(1, 4, 4, 4), torch.zeros(1), Conditioning(tokens=torch.zeros(1, 5, 6))
        )
    with pytest.raises(ValueError, match="hint_channels=0"):
        ControlledTextUNet([4, 4, 4], hint_channels=(), channels=32, multipliers=[1], attention_levels=[0])
