import json

import pytest
import torch
from published.edm import dhariwal, edm2, song
from published.weights import Shapes, Weights
from safetensors.torch import save_file

from denoiselab.denoiser import Denoiser
from denoiselab.interop import InteropError
from denoiselab.interop.nvlabs.edm import Network
from denoiselab.interop.nvlabs.edm2 import edm2_layout
from denoiselab.interop.nvlabs.edm_unets import edm_layout
from denoiselab.networks.conditioning import Conditioning
from denoiselab.nodes.instantiate import construct

SONG = {
    "img_resolution": 8, "img_channels": 2, "label_dim": 0, "augment_dim": 0, "model_channels": 16,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0, "embedding_type": "positional",
    "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard", "resample_filter": [1, 1],
}  # fmt: skip
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
ADM = {
    "img_resolution": 8, "img_channels": 2, "label_dim": 0, "augment_dim": 0, "model_channels": 128,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0,
}  # fmt: skip
EDM2 = {
    "img_resolution": 8, "img_channels": 2, "label_dim": 0, "model_channels": 16, "channel_mult": [1, 2],
    "num_blocks": 2, "attn_resolutions": [4], "label_balance": 0.4, "concat_balance": 0.6, "channels_per_head": 8,
    "res_balance": 0.3, "attn_balance": 0.35, "clip_act": 1.5,
}  # fmt: skip

# The preconditioner, its arguments, and the network within.
CASES = {
    "edm, ddpmpp": ("EDMPrecond", {**SONG, "model_type": "SongUNet"}, song),
    "vp, ddpmpp": ("VPPrecond", SONG, song),
    "ve, ncsnpp": ("VEPrecond", {**SONG, **NCSNPP}, song),
    "edm, ncsnpp": ("EDMPrecond", {**SONG, **NCSNPP, "model_type": "SongUNet"}, song),
    "vp, classes and augmentation": ("VPPrecond", {**SONG, "label_dim": 5, "augment_dim": 9}, song),
    "ve, skips": ("VEPrecond", {**SONG, **NCSNPP, "encoder_type": "skip", "decoder_type": "skip"}, song),
    "edm, adm": ("EDMPrecond", {**ADM, "label_dim": 5}, dhariwal),
    "edm, adm with label dropout": ("EDMPrecond", {**ADM, "label_dim": 5, "label_dropout": 0.1}, dhariwal),
    "iddpm, adm": ("iDDPMPrecond", ADM, dhariwal),
    "edm2": ("Precond", EDM2, edm2),
    "edm2, classes": ("Precond", {**EDM2, "label_dim": 5}, edm2),
}  # fmt: skip


def made(kind, config, network):
    """A state dict of the network within, made up by a pass."""
    weights = Weights()
    size, channels = config["img_resolution"], config["img_channels"]
    classes = torch.zeros(1, config["label_dim"]) if config["label_dim"] else None
    options = {"outputs": 2} if kind == "iDDPMPrecond" else {}
    with torch.no_grad():
        network(weights, config, torch.zeros(1, channels, size, size), torch.zeros(1), classes, **options)
    return weights


def written(folder, kind, config, network, **extra):
    state = made(kind, config, network)
    prefix = "unet." if kind == "Precond" else "model."
    tensors = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    if kind != "Precond":
        tensors[f"{prefix}enc.4x4_down.conv0.resample_filter"] = torch.ones(1, 1, 2, 2) / 4
    else:
        tensors |= {"logvar_linear.weight": torch.zeros(1, 128), "logvar_fourier.freqs": torch.zeros(128)}
    folder.mkdir()
    save_file({**tensors, **extra}, folder / "model.safetensors")
    content = {"class_name": kind, "init_args": [], "init_kwargs": config}
    (folder / "config.json").write_text(json.dumps(content))
    return state


def theirs(kind, config, network, state, x, sigma, **labels):
    """D(x; sigma) of the preconditioner: EDM's table 1."""
    c_in, c_skip = 1 / (1 + sigma**2) ** 0.5, 1.0
    if kind in ("EDMPrecond", "Precond"):
        n = 0.25 + sigma**2
        c_skip, c_out, c_in, label = 0.25 / n, 0.5 * sigma / n**0.5, n**-0.5, torch.tensor(sigma).log() / 4
    elif kind == "VPPrecond":
        log = torch.tensor(1 + sigma**2, dtype=torch.float64).log()
        c_out, label = -sigma, 999 * ((0.1**2 + 2 * 19.9 * log).sqrt() - 0.1) / 19.9
    elif kind == "VEPrecond":
        c_in, c_out, label = 1.0, sigma, torch.tensor(sigma / 2).log()
    else:
        u = [0.0]
        for j in range(1000, 0, -1):
            bar = [
                torch.sin(torch.tensor(torch.pi / 2 * i / 1000 / 1.008, dtype=torch.float64)) ** 2 for i in (j - 1, j)
            ]
            u.insert(0, float((((u[0] ** 2 + 1) / max(bar[0] / bar[1], 0.001)) - 1) ** 0.5))
        nearest = min(range(1001), key=lambda j: abs(u[j] - sigma))
        c_out, label = -sigma, torch.tensor(999.0 - nearest)
    options = {"outputs": 2} if kind == "iDDPMPrecond" else {}
    out = network(Weights(state), config, c_in * x, label.float().expand(len(x)), **labels, **options)
    return c_skip * x + c_out * out[:, : x.shape[1]]


@pytest.mark.parametrize("name", CASES)
def test_an_import_denoises_as_the_original(name, tmp_path):
    kind, config, network = CASES[name]
    state = written(tmp_path / "net", kind, config, network)
    imported = Network(str(tmp_path / "net")).read()
    model = imported.layout.module(**imported.layout.options)
    model.load_state_dict(imported.weights)
    parts = [construct(node, "import") for node in (imported.schedule, imported.parameterization)]
    scale = construct(imported.denoiser["input_scale"], "import")
    label = construct(imported.denoiser["time_label"], "import")
    variance = construct(imported.denoiser["variance"], "import")
    denoiser = Denoiser(model.eval(), *parts, label, scale, variance)
    sigma = 0.8
    level = denoiser.schedule.at(-torch.tensor(sigma, dtype=torch.float64).log())
    if kind == "iDDPMPrecond":  # at a trained level
        level = denoiser.schedule.level((level.t * 1000).round() / 1000)
        sigma = float(level.rho)
    x = torch.randn(3, 2, 8, 8)
    cond, labels = Conditioning(), {}
    if config["label_dim"]:
        null = 5 if imported.layout.options.get("null_class", True) else 0
        assert imported.conditioner.get("null_class", True) == bool(null)
        classes = torch.tensor([0, 4, null])
        cond = cond._replace(class_label=classes)
        labels["classes"] = torch.nn.functional.one_hot(classes, 6)[:, :5].float()
    if config.get("augment_dim"):
        labels["augmentation"] = torch.randn(3, 9)
        cond = cond._replace(augmentation=labels["augmentation"])
    with torch.no_grad():
        ours = denoiser(float(level.alpha) * x, level, cond).x0
        expected = theirs(kind, config, network, state, x, sigma, **labels)
    assert (ours - expected).abs().max() <= 2e-5 * expected.std()
    back = imported.layout.to_theirs(imported.weights)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.allclose(back[key], tensor, atol=1e-6), key


# Arguments of the released networks (the README and train.py of NVlabs/edm; train_edm2.py and README of NVlabs/edm2).
CIFAR10 = {**SONG, "img_resolution": 32, "img_channels": 3, "model_channels": 128, "channel_mult": [2, 2, 2]}
CIFAR10 |= {"num_blocks": 4, "attn_resolutions": [16], "augment_dim": 9}
IMAGENET64 = {**ADM, "img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_channels": 192}
IMAGENET64 |= {"channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8]}
LATENT = {**EDM2, "img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 192}
LATENT |= {"channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [16, 8], "channels_per_head": 64}
RELEASED = {
    # Numbers of parameters are those of the published layouts; the papers and repositories state what is in brackets.
    "edm-cifar10-32x32-uncond-vp": (CIFAR10, song, 55_733_891),
    "edm-cifar10-32x32-uncond-ve": ({**CIFAR10, **NCSNPP}, song, 56_397_827),
    "edm-ffhq-64x64-uncond-vp": ({**CIFAR10, "img_resolution": 64, "channel_mult": [1, 2, 2, 2]}, song, 61_805_571),
    "edm-imagenet-64x64-cond-adm": (IMAGENET64, dhariwal, 295_899_267),
    "edm2-img512-s": (LATENT, edm2, 280_212_709),  # 280 M in arXiv 2404.07724, table 1
    # 238 MB in half precision in the README of NVlabs/edm2, with the 129 numbers of its loss weight.
    "edm2-img512-xs": ({**LATENT, "model_channels": 128}, edm2, 124_713_125),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_have_these_names_and_sizes(name, tmp_path):
    config, network, count = RELEASED[name]
    kind = {song: "VPPrecond", dhariwal: "EDMPrecond", edm2: "Precond"}[network]
    shapes = Shapes()
    size, channels = config["img_resolution"], config["img_channels"]
    with torch.device("meta"):
        classes = torch.zeros(1, config["label_dim"]) if config["label_dim"] else None
        network(shapes, config, torch.zeros(1, channels, size, size), torch.zeros(1), classes)
        layout = edm2_layout(config) if kind == "Precond" else edm_layout(kind, config)
        model = layout.module(**layout.options)
    assert {key: tensor.shape for key, tensor in layout.to_theirs(layout.skeleton()).items()} == shapes.shapes
    null_class = model.classes.weight[0].numel() if network is song and model.classes is not None else 0
    assert sum(p.numel() for p in model.parameters()) - null_class == count


def test_what_is_no_such_network_is_refused_in_a_sentence(tmp_path):
    written(tmp_path / "net", "VPPrecond", SONG, song)
    config = tmp_path / "net" / "config.json"
    content = json.loads(config.read_text())

    def says(match, **changes):
        config.write_text(json.dumps({**content, **changes}))
        with pytest.raises(InteropError, match=match) as error:
            Network(str(tmp_path / "net")).read()
        assert "\n" not in str(error.value)

    says("StyleGAN is not supported", class_name="StyleGAN")
    says("not made by denoiselab.interop.nvlabs.pickles", init_kwargs={"img_channels": 3})
    says("decoder_type=residual is unknown; known: standard, skip", init_kwargs={**SONG, "decoder_type": "residual"})
    says("model_type=UViT is unknown", init_kwargs={**SONG, "model_type": "UViT"})
    says("does not match its configuration: it lacks", init_kwargs={**SONG, "num_blocks": 2})
    says(
        r"'map_layer0.weight' has shape \[64, 16\]; expected is \[128, 32\]",
        init_kwargs={**SONG, "model_channels": 32},
    )
    says(r"encoder_type=residual with resample_filter=\[1, 1\]", init_kwargs={**SONG, "encoder_type": "residual"})
    says("logits_dim=3 is not supported", class_name="Precond", init_kwargs={**EDM2, "logits_dim": 3})
    says("less than 128 channels", class_name="EDMPrecond", init_kwargs={**ADM, "model_channels": 64})
    for kind, strange in {
        "VPPrecond": {"img_resolution": "a", "channel_mult": 5, "beta_min": "x", "model_type": ["SongUNet"]},
        "EDMPrecond": {"img_resolution": 8.5, "attn_resolutions": None, "sigma_data": float("nan")},
        "Precond": {"img_resolution": 0, "model_channels": -4, "channel_mult": None, "sigma_data": 0},
    }.items():
        for option, value in strange.items():
            plain = {"VPPrecond": SONG, "EDMPrecond": ADM, "Precond": EDM2}[kind]
            says(r"config\.json: .*\.$", class_name=kind, init_kwargs={**plain, option: value})
    (tmp_path / "net" / "model.safetensors").write_bytes(b"half")
    says("damaged or truncated")
    with pytest.raises(InteropError, match="no such file"):
        Network(str(tmp_path / "nowhere")).read()
