"""What the suite of every network leaves out of DiT, U-ViT, the UNet with text and the one for signals."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from denoiselab.networks import Conditioning, DiT, TextUNet, UNet1D, UViT

DIT = {"patch": 2, "width": 32, "depth": 2, "heads": 2}
UNET = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8, "heads": 2}
TOKENS = {"token_features": 6, "num_classes": 3}
LABEL = torch.tensor([3.0, 900.0])

# Class, arguments, and the fields that it takes.
NETWORKS = {
    "dit": (DiT, ((1, 8, 4),), DIT, ()),
    "dit text": (DiT, ((2, 8, 4),), {**DIT, **TOKENS, "qk_norm": True}, ("class_label", "tokens", "mask")),
    "dit rotary": (DiT, ((1, 8, 4),), {**DIT, "rotary_positions": True, "qk_norm": True}, ()),
    "uvit": (UViT, ((1, 8, 4),), {**DIT, "depth": 3}, ()),
    "uvit text": (
        UViT,
        ((2, 8, 4),),
        {**DIT, "depth": 3, "time_mlp": True, **TOKENS, "num_tokens": 5},
        ("class_label", "tokens"),
    ),
    "unet text": (
        TextUNet,
        ((2, 8, 4),),
        {**UNET, **TOKENS, "attention_levels": (1,), "image_channels": 3, "depth": (1, 2)},
        ("class_label", "tokens", "mask", "image"),
    ),
    "unet 1d": (
        UNet1D,
        ((2, 48),),
        {**UNET, "strides": (3,), "patch": 2, "attention_levels": (1,), "num_classes": 3, "vector_features": 4},
        ("class_label", "vector"),
    ),
}


def conditioning(takes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    fields = {
        "class_label": torch.randint(4, (2,), generator=draw),
        "vector": torch.randn(2, 4, generator=draw),
        "tokens": torch.randn(2, 5, 6, generator=draw),
        "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        "image": torch.randn(2, 3, 8, 4, generator=draw),
    }
    return Conditioning(**{name: fields[name] for name in takes})


def awake(name, **more):
    """A network all of whose parameters matter, inputs for it, and what it takes."""
    kind, arguments, options, takes = NETWORKS[name]
    torch.manual_seed(0)
    network = kind(*arguments, **{**options, **more})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network, torch.randn(2, *arguments[0]), takes


def gradients(network, x, cond):
    network.zero_grad()
    network(x, LABEL, cond).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_has_the_shape_and_every_parameter_and_field_counts(name):
    network, x, takes = awake(name, outputs=2)
    assert network.conditioning == set(takes)
    cond = conditioning(takes)
    out = network(x, LABEL, cond)
    assert out.shape == (2, 2 * x.shape[1], *x.shape[2:])
    assert all(bool(g.any()) for g in gradients(network, x, cond).values())
    assert torch.allclose(network(x.flip(0), LABEL.flip(0), type(cond)(*flipped(cond))), out.flip(0), atol=1e-4)
    assert not torch.allclose(network(x, LABEL + 1, cond), out, atol=1e-3)
    for field in takes:
        changed = torch.ones(2, 5, dtype=torch.bool) if field == "mask" else getattr(conditioning(takes, 1), field)
        changed = (cond.class_label + 1) % 4 if field == "class_label" else changed
        assert not torch.allclose(network(x, LABEL, cond._replace(**{field: changed})), out, atol=1e-3)


def flipped(cond):
    return (None if field is None else field.flip(0) for field in cond)


@pytest.mark.parametrize("name", [n for n in NETWORKS if "uvit" not in n])
def test_output_starts_as_zero(name):
    kind, arguments, options, takes = NETWORKS[name]
    assert not kind(*arguments, **options)(torch.randn(2, *arguments[0]), LABEL, conditioning(takes)).any()


@pytest.mark.parametrize("name", [n for n, case in NETWORKS.items() if "mask" in case[3]])
def test_masked_tokens_do_not_count(name):
    network, x, takes = awake(name)
    cond = conditioning(takes)
    altered = torch.where(cond.mask[:, :, None], cond.tokens, cond.tokens + 100)
    assert torch.allclose(network(x, LABEL, cond), network(x, LABEL, cond._replace(tokens=altered)), atol=1e-5)
    short = Conditioning(*(None if field is None else field[1:] for field in cond))
    short = short._replace(tokens=short.tokens[:, :3], mask=None)
    assert torch.allclose(network(x, LABEL, cond)[1:], network(x[1:], LABEL[1:], short), atol=1e-4)


@pytest.mark.parametrize("name", ["dit rotary", "dit text"])
def test_compiles_without_graph_breaks_while_activations_are_recomputed(name):
    network, x, takes = awake(name, checkpoint_levels="all")
    cond = conditioning(takes)
    expected = network(x, LABEL, cond)
    network.compile(backend="eager", fullgraph=True)
    assert torch.allclose(network(x, LABEL, cond), expected, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_runs_in_bfloat16_too(name):
    network, x, takes = awake(name)
    cond = Conditioning(*(f.bfloat16() if f is not None and f.is_floating_point() else f for f in conditioning(takes)))
    out = network.to(torch.bfloat16)(x.bfloat16(), LABEL, cond)
    assert out.dtype == torch.bfloat16
    assert bool(out.isfinite().all())


def test_attention_is_torchs_fused_one():
    for name in NETWORKS:
        network, x, takes = awake(name)
        fused = conditioning(takes)._replace(mask=None)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            network(x, LABEL, fused)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dit", {"patch": 3}, "patch=3"),
        ("dit", {"heads": 5}, "heads=5"),
        ("dit", {"width": 30, "heads": 3}, "width=30"),
        ("dit", {"rotary_positions": True, "heads": 16}, "heads=16: rotary"),
        ("dit", {"checkpoint_levels": [2]}, "levels 0 to 1"),
        ("dit", {"depth": 0}, "depth=0"),
        ("dit", {"mlp_ratio": 0.01}, "mlp_ratio=0.01"),
        ("dit", {"mlp_norm_eps": -1.0}, "mlp_norm_eps=-1.0"),
        ("uvit", {"depth": 4}, "depth=4"),
        ("uvit", {"mlp_ratio": -1.0}, "mlp_ratio=-1"),
        ("uvit", {"token_features": 6}, "num_tokens=None"),
        ("unet text", {"heads": 3}, "heads=3"),
        ("unet text", {"heads": (1, 2, 3)}, "heads=.1, 2, 3.: "),
        ("unet text", {"multipliers": (1, 2, 2, 2), "depth": 1}, "stride of 8"),
        ("unet text", {"attention_levels": (2,)}, "attention_levels=.2."),
        ("unet text", {"dropout": 1.0}, "dropout=1.0"),
        ("unet 1d", {"strides": (5,)}, "stride of 10"),
        ("unet 1d", {"strides": (2, 2)}, "strides=.2, 2."),
        ("unet 1d", {"kernel": 4}, "kernel=4"),
        ("unet 1d", {"groups": 5}, "groups=5"),
    ],
)
def test_bad_options_are_refused(name, options, says):
    with pytest.raises(ValueError, match=says):
        awake(name, **options)


@pytest.mark.parametrize("kind", [DiT, UViT, TextUNet, UNet1D])
def test_samples_of_other_dimensions_are_refused(kind):
    with pytest.raises(ValueError, match=r"shape=\[2\]"):
        kind((2,))


def test_patches_of_a_signal_come_back_where_they_were():
    network = UNet1D((2, 48), **{**UNET, "strides": (3,), "attention_levels": ()}, patch=4)
    for name in ("stem", "norm", "head"):
        setattr(network, name, torch.nn.Identity())
    for name in ("down", "middle", "up"):
        setattr(network, name, torch.nn.ModuleList())
    x = torch.randn(2, 2, 48)
    assert torch.equal(network(x, LABEL), x)


def test_a_text_of_another_length_than_its_positions_is_refused():
    network, x, takes = awake("uvit text")
    with pytest.raises(ValueError, match="num_tokens=5: texts have 4 tokens"):
        network(x, LABEL, conditioning(takes)._replace(tokens=torch.randn(2, 4, 6)))
