from pathlib import Path

import pytest
import torch
from published.score_sde import network
from published.weights import Shapes, Weights

from denoiselab.denoiser import Denoiser
from denoiselab.interop import InteropError
from denoiselab.interop.score_sde.checkpoints import CONFIGS, ScoreSDE, averaged, meaning
from denoiselab.interop.score_sde.layout import ncsnpp_layout
from denoiselab.networks import NCSNpp
from denoiselab.nodes.instantiate import construct

HERE = Path("checkpoint.pth")


def tiny(name="ve/cifar10_ncsnpp_continuous", name_=None, **model):
    config = CONFIGS[name]
    sizes = {"nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
    sizes["nf"] = 128 if config["model"]["name"] == "ddpm" else 16
    sizes |= {} if name_ is None else {"name": name_}
    return {
        "data": {**config["data"], "image_size": 8, "num_channels": 2},
        "training": config["training"],
        "model": {**config["model"], **sizes, **model},
    }


def published(config):
    """A state dict in the published layout, made up by the first pass."""
    weights = Weights()
    size = config["data"]["image_size"]
    network(weights, config, torch.zeros(1, config["data"]["num_channels"], size, size), torch.zeros(1))
    return weights


def ours(config, state):
    layout = ncsnpp_layout(config, HERE)
    model = NCSNpp(**layout.options)
    model.load_state_dict(layout.to_ours(state, HERE))
    return model.eval()


VARIANTS = [
    {"embedding_type": e, "fir": f, "resblock_type": b, "progressive_input": i, "progressive": o, "skip_rescale": r}
    for e, f, b, i, o, r in [
        ("fourier", True, "biggan", "residual", "none", True),  # NCSN++
        ("positional", False, "biggan", "none", "none", True),  # DDPM++
        ("fourier", True, "biggan", "input_skip", "output_skip", True),  # NCSN++ at 256 and 1024
        ("positional", True, "ddpm", "residual", "residual", False),
        ("fourier", False, "ddpm", "residual", "residual", True),
        ("positional", False, "biggan", "input_skip", "output_skip", False),
        ("fourier", True, "biggan", "none", "residual", True),
    ]
] + [{"progressive_input": "input_skip", "progressive_combine": "cat", "resblock_type": "ddpm", "fir": False}]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_networks_and_names_are_the_published_ones(variant):
    config = tiny(**variant)
    state = published(config)
    model = ours(config, state)
    x, label = torch.randn(3, 2, 8, 8), torch.tensor([0.3, -1.2, 2.0])
    with torch.no_grad():
        expected = network(Weights(state), config, x, label)
        out = model(x, label)
    assert (out - expected).abs().max() <= 1e-5 * expected.std()
    layout = ncsnpp_layout(config, HERE)
    back = layout.to_theirs(model.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


# The others differ from these in depth or in noise alone.
RELEASED = [
    "ve/cifar10_ncsnpp_continuous",
    "vp/cifar10_ddpmpp",
    "ve/church_ncsnpp_continuous",
    "ve/ffhq_ncsnpp_continuous",
    "vp/ddpm/church",
]


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoints_have_these_shapes(name):
    """Names and shapes of the published layout, at its full size, against our network's."""
    with torch.device("meta"):
        config = CONFIGS[name]
        layout = ncsnpp_layout(config, HERE)
        ours = layout.to_theirs(layout.skeleton())
    made = Shapes()
    size, channels = config["data"]["image_size"], config["data"]["num_channels"]
    with torch.device("meta"):
        network(made, config, torch.zeros(1, channels, size, size), torch.zeros(1))
    assert {name: tensor.shape for name, tensor in ours.items()} == made.shapes


def reference_score(config, state, x, sigma, label):
    """Their score at their x, by their rule: divided by sigma, or minus it by their std."""
    inner = x if config["data"]["centered"] else 2 * x - 1
    out = network(Weights(state), config, inner, label)
    return out / sigma if config["model"]["scale_by_sigma"] else -out / sigma


@pytest.mark.parametrize(
    "name",
    [
        "ve/cifar10_ncsnpp",
        "ve/cifar10_ncsnpp_continuous",
        "vp/cifar10_ddpmpp",
        "vp/cifar10_ddpmpp_continuous",
        "subvp/cifar10_ddpmpp_continuous",
        "ve/cifar10_ddpm",
        "vp/ddpm/cifar10",
    ],
)
def test_an_import_is_their_score(name):
    config = tiny(name)
    state = published(config)
    schedule, parameterization, label = (construct(node, "import") for node in meaning(config, HERE))
    denoiser = Denoiser(ours(config, state), schedule, parameterization, label)
    steps, model = config["model"]["num_scales"], config["model"]
    i = 399 if not config["training"]["continuous"] else None
    t = torch.tensor(0.4 if i is None else (i + 1) / steps, dtype=torch.float64)
    level = schedule.level(t)
    # Their noise and label, by the formulas of sde_lib.py and models/utils.py.
    if config["training"]["sde"] == "vesde":
        position = float(t) if i is None else i / (steps - 1)
        sigma = model["sigma_min"] * (model["sigma_max"] / model["sigma_min"]) ** position
        their_label = torch.tensor([sigma]).log() if i is None else torch.tensor([steps - 1.0 - i])
        alpha = 1.0
    else:
        if i is None:
            log_mean = -(float(t) ** 2) * (20 - 0.1) / 4 - float(t) * 0.1 / 2
        else:
            log_mean = 0.5 * float(torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)[: i + 1].neg().log1p().sum())
        alpha = torch.tensor(log_mean).exp().item()
        sigma = 1 - alpha**2 if config["training"]["sde"] == "subvpsde" else (1 - alpha**2) ** 0.5
        their_label = torch.tensor([float(t) * 999 if i is None else float(i)])
    x = torch.randn(1, 2, 8, 8) * sigma + alpha * torch.rand(1, 2, 8, 8)
    mine = x if config["data"]["centered"] else 2 * x - 1
    with torch.no_grad():
        eps = denoiser(mine, level).eps
        expected = -sigma * reference_score(config, state, x, sigma, their_label)
    assert float(level.sigma) == pytest.approx(sigma * (1 if config["data"]["centered"] else 2), rel=1e-6)
    assert (eps - expected).abs().max() <= 2e-5 * expected.std()


@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("vp/cifar10_ncsnpp_continuous", "fourier"),  # theirs embeds log(999 t)
        ("subvp/cifar10_ddpmpp_continuous", "fourier"),
        ("ve/cifar10_ncsnpp_continuous", "positional"),  # sigma itself, and divides by the sigma of that index
        ("ve/cifar10_ncsnpp", "fourier"),
    ],
)
def test_labels_that_ours_would_not_be_told_are_refused(name, embedding):
    with pytest.raises(InteropError, match=f"model.embedding_type={embedding} on a .* is not supported"):
        meaning(tiny(name, embedding_type=embedding), HERE)


def checkpoint(tmp_path, config, **changes):
    state = published(config)
    trained = [name for name in state if name not in ("sigmas", "all_modules.0.W")]
    content = {
        "optimizer": {},
        "step": 7,
        "model": {f"module.{name}": tensor for name, tensor in {"sigmas": torch.ones(3), **state}.items()},
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": [state[name] + 1 for name in trained]},
    }
    content.update(changes)
    torch.save(content, tmp_path / "checkpoint_7.pth")
    return tmp_path / "checkpoint_7.pth", state


def test_checkpoint_files_are_read_with_their_averages(tmp_path):
    config = tiny()
    path, state = checkpoint(tmp_path, config)
    imported = ScoreSDE(str(path), config).read()
    back = imported.layout.to_theirs(imported.weights)
    average = imported.layout.to_theirs(imported.averages["ema"])
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor)
        assert torch.equal(average[name], tensor if name == "all_modules.0.W" else tensor + 1)


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path):
    config = tiny()
    path, state = checkpoint(tmp_path, config)
    with pytest.raises(ValueError, match="config=ve/cifar: unknown"):
        ScoreSDE(str(path), "ve/cifar")
    with pytest.raises(ValueError, match=r"config.model.name: missing"):
        ScoreSDE(str(path), {"data": config["data"], "training": config["training"]})
    with pytest.raises(ValueError, match=r"config.model.progressive=skip: it must be one of none, output_skip"):
        ScoreSDE(str(path), tiny(progressive="skip"))
    with pytest.raises(ValueError, match=r"config.model.name=ncsnv2_64: it must be one of ncsnpp, ddpm"):
        ScoreSDE(str(path), tiny(name_="ncsnv2_64"))
    with pytest.raises(InteropError, match=r"model.nf=100: a ddpm needs channels"):
        ncsnpp_layout(tiny("vp/ddpm/cifar10", nf=100), HERE)
    with pytest.raises(
        InteropError, match=r"model.nf=64: a ddpm needs channels"
    ):  # the stem's 64 are in 32 groups of 2
        ncsnpp_layout(tiny("vp/ddpm/cifar10", nf=64, ch_mult=[2, 2]), HERE)
    with pytest.raises(InteropError, match=r"model.fir_kernel=\[1, 2, 3, 4\] is not supported"):
        ncsnpp_layout(tiny(fir_kernel=[1, 2, 3, 4]), HERE)  # theirs mirrors it where it halves, too
    with pytest.raises(InteropError, match=r"does not match its configuration"):
        ScoreSDE(str(path), "vp/cifar10_ddpmpp_continuous").read()
    with pytest.raises(InteropError, match=r"model.nonlinearity=elu is not supported"):
        ScoreSDE(str(path), tiny(nonlinearity="elu")).read()
    with pytest.raises(InteropError, match="averages do not match"):
        averaged(state, {"shadow_params": [torch.zeros(1)]}, HERE)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InteropError, match="damaged or truncated"):
        ScoreSDE(str(path), config).read()
    torch.save({"state": 1}, path)
    with pytest.raises(InteropError, match="not a checkpoint of score_sde"):
        ScoreSDE(str(path), config).read()


def test_a_ddpm_is_ho_et_als_but_for_attention_on_the_way_up(tmp_path):
    """After a level's last block alone; their configuration says nothing of what makes NCSN++."""
    config = CONFIGS["vp/ddpm/cifar10"]
    with torch.device("meta"):
        network = NCSNpp(**ncsnpp_layout(config, HERE).options)
    attention = 2 * 256 + 4 * (256 * 256 + 256)  # of which Ho et al.'s network has two more, of 35.7 M parameters
    assert sum(p.numel() for p in network.parameters()) == 35_746_307 - 2 * attention
    bare = {**tiny("vp/ddpm/cifar10"), "model": dict(tiny("vp/ddpm/cifar10")["model"])}
    for key in ("fir", "fir_kernel", "skip_rescale", "resblock_type", "progressive", "progressive_input"):
        del bare["model"][key]
    bare["model"]["embedding_type"] = "fourier"  # as their files inherit and the network passes over
    path, _ = checkpoint(tmp_path, tiny("vp/ddpm/cifar10"))
    assert ScoreSDE(str(path), bare).read().layout.options == ncsnpp_layout(tiny("vp/ddpm/cifar10"), HERE).options
