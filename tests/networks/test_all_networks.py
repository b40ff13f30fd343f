"""What holds of every network of conf/network, at its own size on no device and made tiny; new files are picked up.

A file that differs from another only in sizes is made tiny once.
"""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from configurations import CONF, names
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from denoiselab.app.construct import check, construct
from denoiselab.networks import Conditioning
from denoiselab.networks.conditioning import OPTIONAL

# Sizes for the options that a network has; what it cannot be made tiny by is added by its class.
TINY = {
    "shape": [2, 8, 8],
    "channels": 16,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_levels": [1],
    "groups": 8,
    "width": 32,
    "heads": 2,
    "depth": 3,
    "dropout": 0.0,
    "num_classes": 3,
    "vector_features": 4,
    "token_features": 6,
    "num_tokens": 5,
    "image_channels": 3,
    "augmentation_features": 7,
}
OF_CLASS = {
    "ADMUNet": {"head_channels": 8},
    "EDM2UNet": {"head_channels": 8},
    "MLP": {"shape": [2]},
    "NCSN": {"channels": 8, "multipliers": [1, 2, 2], "dilations": [1, 1, 2]},
    "NCSNv2": {"channels": 8, "multipliers": [1, 2, 2], "dilations": [1, 1, 2]},
    "TextUNet": {"depth": 1},
    "UNet1D": {"shape": [2, 48], "strides": [3]},
}
# Shapes of samples for networks at their own size, where 3x256x256 is not one.
SHAPES = {"MLP": [2], "UNet1D": [1, 4096]}
UNTOLD = {"NCSNv2"}  # of the time: the parameterization divides by sigma
LABEL = torch.tensor([3.0, 9.0])


@cache
def configuration(name: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(f"network/{name}").network
    plain = OmegaConf.to_container(OmegaConf.create({"data": {"shape": [3, 256, 256]}, "network": node}), resolve=True)
    return json.dumps(plain["network"])


def tiny(name: str, **options):
    config = json.loads(configuration(name))
    kind = config["_target_"].rpartition(".")[2]
    sizes = {key: value for key, value in {**TINY, **OF_CLASS.get(kind, {})}.items() if key in config}
    if config.get("head_channels", 0) is None:
        sizes.pop("head_channels", None)
    return {**config, **sizes, **options}


def distinct() -> list[str]:
    found: dict[str, str] = {}
    for name in sorted(names("network"), key=len):
        found.setdefault(json.dumps(tiny(name), sort_keys=True), name)
    return sorted(found.values())


NAMES = distinct()
CLASSES = list({tiny(name)["_target_"]: name for name in reversed(NAMES)}.values())


def build(config):
    check({"network": config})
    torch.manual_seed(0)
    return construct(config, "network")


def awake(name: str, **options):
    """A tiny network none of whose layers starts at or near zero, and inputs for it."""
    network = build(tiny(name, **options))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 0.1:
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
                parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    x = torch.randn(2, *tiny(name)["shape"], generator=draw)
    return network.eval(), x, conditioning(network, x)


def fields(x):
    """A value for every field of a conditioning, fit for `TINY`."""
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, *(size // 2 for size in x.shape[2:]), generator=draw)
    return {
        "class_label": torch.tensor([0, 2]),
        "vector": torch.randn(2, 4, generator=draw),
        "tokens": torch.randn(2, 5, 6, generator=draw),
        "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        "image": image,
        "augmentation": torch.randn(2, 7, generator=draw),
    }


def conditioning(network, x):
    given = fields(x)
    return Conditioning(**{name: given[name] for name in network.conditioning})


def gradients(network, x, cond):
    network.zero_grad()
    network(x, LABEL, cond).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def close(a, b):
    """Equal to float32's rounding."""
    return bool((a - b).abs().max() <= 2e-4 * b.abs().max())


@pytest.mark.parametrize("name", names("network"))
def test_every_file_composes_at_its_own_size(name):
    config = json.loads(configuration(name))
    config["shape"] = SHAPES.get(config["_target_"].rpartition(".")[2], config["shape"])
    with torch.device("meta"):
        network = build(config)
    assert isinstance(network.conditioning, frozenset)
    assert network.conditioning <= set(Conditioning._fields)


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_conditioning(name):
    """The output has the sample's shape, times `outputs`; what is not taken, or is missing, is refused."""
    network, x, cond = awake(name, outputs=2)
    with torch.no_grad():
        out = network(x, LABEL, cond)
        assert out.shape == (2, 2 * x.shape[1], *x.shape[2:])
        assert torch.equal(network(x, LABEL + 1, cond), out) == (type(network).__name__ in UNTOLD)
        for field, value in fields(x).items():
            if field not in network.conditioning:
                with pytest.raises(ValueError, match=f"does not take {field}"):
                    network(x, LABEL, cond._replace(**{field: value}))
            elif field not in OPTIONAL:
                with pytest.raises(ValueError, match=f"needs {field}"):
                    network(x, LABEL, cond._replace(**{field: None}))
            if field in network.conditioning:
                assert not torch.equal(network(x, LABEL, cond._replace(**{field: value.flip(0)})), out)


@pytest.mark.parametrize("name", [name for name in CLASSES if len(tiny(name)["shape"]) > 1])
def test_a_resolution_that_the_stride_does_not_divide_is_refused(name):
    config = tiny(name)
    with pytest.raises(Exception, match="divide"):
        build({**config, "shape": [*config["shape"][:-1], 9 if len(config["shape"]) == 3 else 47]})


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_the_layout_alone(name):
    network, x, cond = awake(name)
    want = gradients(network, x, cond)
    want["out"] = network(x, LABEL, cond)
    if x.ndim == 4:
        network.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    got = gradients(network, x, cond)
    got["out"] = network(x, LABEL, cond)
    assert want.keys() == got.keys()
    assert all(close(got[key], want[key]) for key in want)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_is_finite_and_near(name):
    network, x, cond = awake(name)
    want = network(x, LABEL, cond)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x, LABEL, cond)
        out.float().square().sum().backward()
    assert bool((out.float() - want).norm() <= 0.1 * want.norm())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("name", [n for n in NAMES if any(k.startswith("checkpoint_") for k in tiny(n))])
def test_checkpointing_leaves_the_gradients_as_they_are(name):
    config = tiny(name)
    levels = range(len(config["multipliers"])) if "checkpoint_levels" in config else ()
    switch = {"checkpoint_levels": list(levels)} if levels else {"checkpoint_blocks": config["depth"]}
    plain, x, cond = awake(name)
    checkpointed, _, _ = awake(name, **switch)
    want, got = gradients(plain, x, cond), gradients(checkpointed, x, cond)
    assert want.keys() == got.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


@pytest.mark.parametrize("name", CLASSES)
def test_compiles_without_graph_breaks(name):
    torch.compiler.reset()
    network, x, cond = awake(name)
    want = network(x, LABEL, cond)
    network.compile(backend="eager", fullgraph=True)
    assert close(network(x, LABEL, cond), want)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_denoiser_learns_in_200_steps(name):
    """Noise is predicted from digits (rows of them as waves, two pixels as points) at ten levels."""
    few = dict.fromkeys(("num_classes", "image_channels", "token_features", "num_tokens", "vector_features"))
    few = {key: value for key, value in {**few, "augmentation_features": None}.items() if key in tiny(name)}
    shape = tiny(name)["shape"]
    size = [1, 8, 8] if len(shape) == 3 else shape
    if tiny(name)["_target_"].endswith("TextUNet"):
        few["token_features"] = 6
    network = build(tiny(name, **{**few, "shape": size}))
    digits = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
    count = torch.Size(size).numel()
    data = (digits[:, 26 : 26 + count] if count < 64 else digits.repeat(1, 2)[:, :count]).reshape(-1, *size)
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    cond = Conditioning(tokens=torch.ones(16, 5, 6)) if "tokens" in network.conditioning else Conditioning()
    losses = []
    for _ in range(200):
        x0 = data[torch.randint(len(data), (16,), generator=draw)]
        step = torch.randint(10, (16,), generator=draw)
        eps = torch.randn(x0.shape, generator=draw)
        angle = ((step + 1) / 10 * 1.5).reshape(-1, *[1] * len(size))
        out = network(angle.cos() * x0 + angle.sin() * eps, step.float(), cond)
        loss = (out - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.7 * sum(losses[:5]) / 5
