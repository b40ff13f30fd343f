"""What holds of every network of conf/network, at its own size on no device and made tiny; new files are picked up.

A file that differs from another only in sizes is made tiny once.
"""

from __future__ import annotations

import inspect
import json
import shutil
from functools import cache

import pytest
import torch
from configurations import CONF, names, stated
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from torch import nn

from denoiselab.networks import Conditioning, NCSNv2
from denoiselab.networks.magnitude import MPConv
from denoiselab.nodes.instantiate import check, construct, resolve
from denoiselab.nodes.signatures import read
from denoiselab.testing.networks import CHECKS, LABEL, close, gradients, wake

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
    "JiT": {"patch": 2, "bottleneck": 8, "context_tokens": 2, "context_from": 1},
    "MLP": {"shape": [2]},
    "NCSN": {"channels": 8, "multipliers": [1, 2], "dilations": [1, 1]},
    "NCSNv2": {"channels": 8, "multipliers": [1, 2, 2], "dilations": [1, 1, 2]},
    "ControlledTextUNet": {"depth": 1},
    "TextUNet": {"depth": 1},
    "UNet1D": {"shape": [2, 48], "strides": [3]},
}
# Numbers of parameters at these sizes, as the comments of the files have them; a new file needs no entry.
# Published are ddpm, ddpm_256: Ho et al., arXiv 2006.11239, section 4 and appendix B; adm*: Dhariwal and Nichol,
# 2105.05233, appendix; iddpm: Nichol and Dhariwal, 2102.09672; dit_*: Peebles and Xie, 2212.09748, table 4; uvit*:
# Bao et al., 2209.12152, table 1; edm2*: Karras et al., 2312.02696, table 2 (XS: 2404.07724), to fewer digits there;
# unet_text*: the UNets of CompVis/stable-diffusion-v1-4 and stabilityai/stable-diffusion-2.
COUNTED = [
    ({"shape": [3, 64, 64], "num_classes": 1000, "null_class": False, "outputs": 2}, {"adm": "296 M"}),
    ({"shape": [3, 128, 128], "num_classes": 1000, "null_class": False, "outputs": 2}, {"adm_128": "422 M"}),
    (
        {"shape": [3, 256, 256], "num_classes": 1000, "null_class": False, "outputs": 2},
        {"adm_256": "554 M", "adm_upsampler": "312 M"},
    ),
    ({"shape": [3, 512, 512], "num_classes": 1000, "null_class": False, "outputs": 2}, {"adm_512": "559 M"}),
    (
        {"shape": [3, 32, 32]},
        {
            "ddpm": "35.7 M",
            "ddpmpp": "61.8 M",
            "ddpmpp_deep": "106.6 M",
            "edm_ddpmpp": "55.7 M",
            "edm_ncsnpp": "56.4 M",
            "ncsn": "30.1 M",
            "ncsnpp": "62.8 M",
            "ncsnpp_deep": "107.6 M",
            "ncsnv2": "29.7 M",
            "uvit": "44 M",
        },
    ),
    ({"shape": [3, 256, 256], "num_classes": 1000}, {"jit": "131 M"}),
    ({"shape": [3, 256, 256]}, {"ddpm_256": "114 M", "ncsnpp_256": "65.6 M", "ncsnv2_256": "94.1 M"}),
    ({"shape": [1, 8, 8]}, {"ddpm_tiny": "0.65 M", "dit_tiny": "0.72 M", "uvit_tiny": "0.60 M"}),
    (
        {"shape": [4, 32, 32], "num_classes": 1000, "outputs": 2},
        {
            "dit": "33 M",
            "dit_b_2": "130 M",
            "dit_b_4": "130 M",
            "dit_b_8": "131 M",
            "dit_l_2": "458 M",
            "dit_l_4": "458 M",
            "dit_l_8": "459 M",
            "dit_s_2": "33 M",
            "dit_s_4": "33 M",
            "dit_s_8": "33 M",
            "dit_xl_2": "675 M",
            "dit_xl_4": "675 M",
            "dit_xl_8": "676 M",
        },
    ),
    (
        {"shape": [4, 64, 64], "num_classes": 1000},
        {
            "edm2": "280.2 M",
            "edm2_l": "777.5 M",
            "edm2_m": "497.8 M",
            "edm2_xl": "1.119 G",
            "edm2_xs": "124.7 M",
            "edm2_xxl": "1.523 G",
        },
    ),
    ({"shape": [3, 32, 32], "outputs": 2}, {"iddpm": "52.5 M"}),
    ({"shape": [2]}, {"mlp": "0.15 M"}),
    ({"shape": [3, 128, 128]}, {"ncsnv2_128": "83.4 M"}),
    ({"shape": [1, 4096]}, {"unet_1d": "61.5 M"}),
    ({"shape": [4, 64, 64]}, {"unet_text": "859.5 M", "unet_text_2": "865.9 M"}),
    ({"shape": [4, 32, 32], "num_classes": 1000}, {"uvit_h": "501 M", "uvit_l": "287 M"}),
    ({"shape": [3, 64, 64], "patch": 4, "num_classes": 1000}, {"uvit_m": "131 M"}),
    ({"shape": [4, 32, 32], "token_features": 768, "num_tokens": 77}, {"uvit_s_deep": "58 M"}),
]
COUNTS = [(name, sizes, count) for sizes, counts in COUNTED for name, count in counts.items()]


@cache
def configuration(name: str) -> str:
    node = stated(f"network/{name}").network
    plain = OmegaConf.to_container(OmegaConf.create({"data": {"shape": [3, 256, 256]}, "network": node}), resolve=True)
    return json.dumps(plain["network"])


def full(name: str) -> dict:
    """The options of a network, with the defaults of its class."""
    config = json.loads(configuration(name))
    kind = resolve(config["_target_"], "network")
    taken = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):  # which its base class takes
        taken = {**inspect.signature(kind.__base__).parameters, **taken}
    return {**{p.name: p.default for p in taken.values() if p.default is not p.empty}, **config}


def tiny(name: str, **options):
    config = full(name)
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
FAMILIES = sorted({*CLASSES, "iddpm", "ncsnpp", "ncsnpp_256"})  # with those that share a class and little else


def build(config):
    check({"network": config})
    torch.manual_seed(0)
    return construct(config, "network")


def awake(name: str, **options):
    """A tiny network none of whose layers starts at or near zero, and inputs for it."""
    options = tiny(name, **options)
    network = build(options)
    draw = torch.Generator().manual_seed(0)
    wake(network, draw)
    x = torch.randn(2, *options["shape"], generator=draw)
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


@pytest.mark.parametrize("name", names("network"))
def test_every_file_composes_to_a_network_of_its_size(name):
    shape = {1: [2], 2: [1, 4096], 3: [3, 256, 256]}[len(tiny(name)["shape"])]
    with torch.device("meta"):
        network = build({**json.loads(configuration(name)), "shape": shape})
    assert network.conditioning <= set(Conditioning._fields)


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_is_described(name):
    """By the class or by one that it extends; `--help` shows it."""
    options = read(full(name)["_target_"]).parameters
    assert [option for option, parameter in options.items() if not parameter.doc] == []


@pytest.mark.parametrize(("name", "sizes", "count"), COUNTS)
def test_numbers_of_parameters(name, sizes, count):
    """Of a network of the sizes in the table; the file's comment has the same number."""
    with torch.device("meta"):
        network = build({**json.loads(configuration(name)), **sizes})
    number, unit = count.split()
    found = sum(p.numel() for p in network.parameters()) / {"M": 1e6, "G": 1e9}[unit]
    assert f"{found:.{len(number.partition('.')[2])}f}" == number
    assert f"{count} parameters" in (CONF / "network" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check_of", CHECKS)
def test_a_network_keeps_its_contract(name, check_of):
    network, x, cond = awake(name, outputs=2)
    check_of(network, x, cond, 2)


@pytest.mark.parametrize("name", [name for name in CLASSES if len(tiny(name)["shape"]) > 1])
def test_a_resolution_that_the_stride_does_not_divide_is_refused(name):
    config = tiny(name)
    with pytest.raises(Exception, match="divide"):
        build({**config, "shape": [*config["shape"][:-1], 9 if len(config["shape"]) == 3 else 47]})


class _Rounding:
    """Makes a network of float32 round what autocast rounds: weights, inputs and outputs of its matrix products."""

    def __init__(self, network):
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, MPConv)):
                module.register_forward_pre_hook(lambda module, given: tuple(map(self.rounded, given)))
                module.register_forward_hook(lambda module, given, out: self.rounded(out))
                for parameter in module.parameters(recurse=False):
                    parameter.data = self.rounded(parameter.data)

    @staticmethod
    def rounded(value):
        return value.bfloat16().float() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_errs_no_more_than_rounded_matrix_products(name):
    """Norms, softmax and embeddings in full precision err by less than twice as much, in output and gradients."""
    network, x, cond = awake(name, **({"shape": [64]} if name == "mlp" else {}))  # the error of few numbers is chance
    label = torch.tensor([3.0, 999.0])  # bfloat16 has no 999

    def flat(autocast=False):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = network(x, label, cond)
        out.float().square().sum().backward()
        # Not of gains: the error of a single number is chance.
        grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None and p.ndim]
        return out.detach().float(), torch.cat(grads)

    want, got = flat(), flat(autocast=True)
    _Rounding(network)
    rounded = flat()
    # Max pooling sends gradients to another of two near equals.
    for exact, half, reference, most in zip(want, got, rounded, (2, 6 if type(network) is NCSNv2 else 2), strict=True):
        assert (half - exact).norm() <= most * (reference - exact).norm()
        assert (half - exact).norm() <= 0.05 * exact.norm()


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_leaves_the_gradients_as_they_are(name):
    """Each number, with masks of dropout too; one level may be chosen, or all; one that is not there is refused."""
    options = {"dropout": 0.3} if "dropout" in tiny(name) else {}
    plain, x, cond = awake(name, **options)
    torch.manual_seed(1)
    want = gradients(plain.train(), x, cond)
    kept = count_saved(plain, x, cond)
    for levels, share in ([0], 1.0), ("all", 0.7):
        checkpointed, _, _ = awake(name, **options, checkpoint_levels=levels)
        torch.manual_seed(1)
        got = gradients(checkpointed.train(), x, cond)
        assert want.keys() == got.keys()
        assert all(torch.equal(got[key], want[key]) for key in want)
        assert count_saved(checkpointed, x, cond) < share * kept
    for levels in ([9], "none"):
        with pytest.raises(Exception, match="checkpoint_levels="):
            build(tiny(name, checkpoint_levels=levels))


def count_saved(network, x, cond):
    """Numbers that the forward pass keeps for the backward pass."""
    count = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: count.append(t.numel()) or t, lambda t: t):
        network(x, LABEL, cond)
    return sum(count)


def compiled(name, backend, **options):
    """Whether a compiled network has the same output and gradients."""
    torch.compiler.reset()
    network, x, cond = awake(name, **options)
    want = [network(x, LABEL, cond), *gradients(network, x, cond).values()]
    network.compile(backend=backend, fullgraph=True)
    got = [network(x, LABEL, cond), *gradients(network, x, cond).values()]
    return all(map(close, got, want))


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "unet_text"])  # unet_text_control contains it
def test_compiles_without_graph_breaks(name):
    assert compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_compiles_to_machine_code():
    """A transformer of one block: it takes long for the rest."""
    assert compiled("dit", "inductor", depth=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "unet_text_control"])  # frozen but for a copy
def test_a_denoiser_learns_in_100_steps(name):
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
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
    cond = Conditioning(tokens=torch.ones(16, 5, 6)) if "tokens" in network.conditioning else Conditioning()
    losses = []
    for _ in range(100):
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
