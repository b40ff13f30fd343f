"""diffusers' UNet2DModel and our DDPMUNet are one network, through the real files of both."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from randomised import batch, off, randomised

from denoiselab.denoiser import Denoiser, StepIndex
from denoiselab.interop.diffusers.pipelines import Pipeline, layout_of
from denoiselab.interop.diffusers.unet import unet2d_config
from denoiselab.interop.diffusers.writing import write_pipeline
from denoiselab.interop.weights.files import read_json
from denoiselab.interop.weights.layout import Layout
from denoiselab.networks import ADMUNet, DDPMUNet
from denoiselab.networks.conditioning import Conditioning
from denoiselab.parameterizations import eps
from denoiselab.schedules import DiscreteVP, betas
from denoiselab.variances import FixedLarge, LearnedRange

TINY = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8}
ATTENTION = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
# The options of google/ddpm-cifar10-32 and google/ddpm-*-256, which are those of Ho et al.'s own networks.
GOOGLE = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
    "act_fn": "silu",
    "mid_block_scale_factor": 1,
}
MODELS = {
    "google": {**TINY, **ATTENTION, **GOOGLE},
    "defaults": {**TINY, **ATTENTION},
    "classes": {**TINY, **ATTENTION, "num_class_embeds": 5, "in_channels": 1, "out_channels": 1},
    "learned variance": {**TINY, **ATTENTION, "out_channels": 6, "layers_per_block": 2},
    "three levels": {
        **TINY,
        "block_out_channels": (16, 16, 48),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
        "sample_size": (8, 12),
        "add_attention": False,
    },
    "ADM": {
        **TINY,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attn_norm_num_groups": 8,
        "num_class_embeds": 5,
    },
    "improved DDPM": {
        **TINY,
        **ATTENTION,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
        "flip_sin_to_cos": False,
        "attention_head_dim": None,
    },
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def theirs(request):
    """A model of theirs whose weights all count."""
    return randomised(UNet2DModel(**request.param))


def saved(model, folder, **scheduler):
    """A folder as `save_pretrained` writes it."""
    DDPMPipeline(model, DDPMScheduler(**scheduler)).save_pretrained(folder)
    return folder


def conditions(model, size=3):
    """What each takes beside the batch: (ours, theirs)."""
    if model.config.num_class_embeds is None:
        return Conditioning(), {}
    labels = torch.arange(size) % model.config.num_class_embeds
    return Conditioning(class_label=labels), {"class_labels": labels}


def compare(network, model, layout):
    """Outputs in float32, then outputs and all gradients in float64."""
    x, label = batch((model.config.in_channels, 8, 8))
    cond, other = conditions(model)
    with torch.no_grad():
        assert off(network(x, label, cond), model(x, label, **other).sample) < 1e-5
    network, model = network.double(), model.double()
    ours, theirs = network(x.double(), label.double(), cond), model(x.double(), label.double(), **other).sample
    assert off(ours.detach(), theirs.detach()) < 1e-12
    weight = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for entry in layout.entries:
        expected = entry.way.ours(*(gradients[name] for name in entry.theirs))
        found = network.get_parameter(entry.ours).grad
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10, entry.ours


def test_imported_networks_have_their_outputs_and_gradients(theirs, tmp_path):
    imported = Pipeline(str(saved(theirs, tmp_path, variance_type=variance_type(theirs)))).read()
    network = imported.layout.module(**imported.layout.options).eval()
    network.load_state_dict(imported.weights)
    assert type(network) is (ADMUNet if theirs.config.resnet_time_scale_shift == "scale_shift" else DDPMUNet)
    compare(network, theirs, imported.layout)


OURS = {"shape": (3, 8, 8), "channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8}


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (DDPMUNet, OURS),
        (DDPMUNet, {**OURS, "attention_levels": (0, 1), "head_channels": 8, "symmetric": True, "outputs": 2}),
        (DDPMUNet, {**OURS, "num_classes": 4, "shape": (1, 8, 16)}),
        (DDPMUNet, {**OURS, "num_classes": 4, "null_class": False, "middle_attention": False}),
        (ADMUNet, {**OURS, "attention_levels": (1,), "head_channels": 8, "outputs": 2, "num_classes": 4}),
        (ADMUNet, {**OURS, "attention_levels": (0,), "head_channels": None, "block_resampling": False}),
        (ADMUNet, {**OURS, "attention_levels": (), "head_channels": 16, "scale_shift": False}),
    ],
    ids=["defaults", "options", "classes", "no null class", "ADM", "convolutions", "no scale and shift"],
)
def test_exported_networks_have_our_outputs_and_gradients(module, options, tmp_path):
    network = randomised(module(**options))
    write_pipeline(tmp_path, denoiser(network), options)
    model = UNet2DModel.from_pretrained(tmp_path / "unet").eval()
    compare(network, model, unet2d_config(module, options)[1])
    back = layout_of(read_json(tmp_path / "unet" / "config.json"), tmp_path)
    assert back.module is module
    assert back.to_theirs(back.skeleton()).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"multipliers": (2, 4)}, "network.multipliers=.2, 4.: UNet2DModel needs whole numbers, the first 1"),
        (
            {"heads": 2, "head_channels": None, "attention_levels": ()},
            "network.heads=2: UNet2DModel needs heads of equal",
        ),
        ({"image_channels": 3, "attention_levels": ()}, "network.image_channels=3: UNet2DModel supports only None"),
        ({"vector_features": 3, "attention_levels": ()}, "network.vector_features=3: UNet2DModel supports only None"),
    ],
)
def test_networks_that_diffusers_does_not_have_are_not_written(options, says):
    with pytest.raises(ValueError, match=says):
        unet2d_config(ADMUNet, {**OURS, **options})


def test_a_pipeline_that_nothing_loads_is_not_written(tmp_path, monkeypatch):
    options = {**OURS, "patch": 2}
    network = denoiser(DDPMUNet(**options))
    with pytest.raises(ValueError, match="patch=2: UNet2DModel supports only 1"):
        write_pipeline(tmp_path, network, options)
    config, layout = unet2d_config(DDPMUNet, OURS)
    forgetful = config, Layout(DDPMUNet, options, layout.entries)
    monkeypatch.setattr("denoiselab.interop.diffusers.writing.unet2d_config", lambda *_: forgetful)
    with pytest.raises(ValueError, match="has shape"):
        write_pipeline(tmp_path, network, options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_comes_back_the_same(tmp_path):
    """Names, shapes, numbers, schedule, parameterization and variance; theirs too."""
    network = randomised(DDPMUNet(**OURS))
    write_pipeline(tmp_path / "ours", denoiser(network), OURS)
    back = Pipeline(str(tmp_path / "ours")).read()
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in network.state_dict().items())
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "ours")
    assert type(pipeline.scheduler) is DDPMScheduler
    pipeline.save_pretrained(tmp_path / "theirs")
    again = Pipeline(str(tmp_path / "theirs")).read()
    assert again.digest() == replace(back, name="theirs").digest()


def denoiser(network, **options):
    """A denoiser as `method=ddpm` builds it."""
    variance = FixedLarge() if network.head.out_channels == network.stem.in_channels else LearnedRange()
    return Denoiser(network, DiscreteVP(betas.linear()), eps, StepIndex(), variance=variance, **options)


def variance_type(model):
    return "learned_range" if model.config.out_channels == 2 * model.config.in_channels else "fixed_small"


def test_files_from_before_diffusers_0_15_are_read(tmp_path):
    """google/ddpm-*'s attention layers are called query, key, value and proj_attn, and lie in a pickle-free .bin."""
    model = randomised(UNet2DModel(**MODELS["google"]))
    saved(model, tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in model.state_dict().items():
        for present, former in old.items():
            name = name.replace(f".{present}.", f".{former}.")
        state[name] = tensor
    assert any("proj_attn" in name for name in state)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    # Those folders have no subfolders.
    for file in (*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()):
        file.rename(tmp_path / file.name)
    for folder in ("unet", "scheduler"):
        (tmp_path / folder).rmdir()
    imported = Pipeline(str(tmp_path)).read()
    network = DDPMUNet(**imported.layout.options).eval()
    network.load_state_dict(imported.weights)
    compare(network, model, imported.layout)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"block_out_channels": (128, 256, 256, 256), "sample_size": 32, "attends": 1}, 35_746_307),
        ({"block_out_channels": (128, 128, 256, 256, 512, 512), "sample_size": 256, "attends": 4}, 113_673_219),
    ],
    ids=["ddpm-cifar10-32", "ddpm-celebahq-256"],
)
def test_the_released_configurations_are_known(options, millions):
    """Their parameter counts, and every name and shape, on the meta device."""
    attends = options.pop("attends")
    levels = range(len(options["block_out_channels"]))
    config = {
        **GOOGLE,
        **options,
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "center_input_sample": False,
        "in_channels": 3,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "time_embedding_type": "positional",
        "down_block_types": ["AttnDownBlock2D" if level == attends else "DownBlock2D" for level in levels],
        "up_block_types": ["AttnUpBlock2D" if level == attends else "UpBlock2D" for level in reversed(levels)],
    }
    layout = layout_of(config, "config.json")
    with torch.device("meta"):
        theirs = UNet2DModel(**{key: value for key, value in config.items() if key[0] != "_"}).state_dict()
    named = layout.to_theirs(layout.skeleton())
    assert {name: tensor.shape for name, tensor in named.items()} == {n: t.shape for n, t in theirs.items()}
    assert sum(tensor.numel() for tensor in named.values()) == millions


@pytest.mark.parametrize("left_out", [None, ("up_block_types", "block_out_channels"), ("layers_per_block",)])
def test_a_configuration_may_leave_out_what_diffusers_has_a_default_of(left_out):
    with torch.device("meta"):
        theirs = UNet2DModel(sample_size=32)
    whole = {"_class_name": "UNet2DModel", **theirs.config}
    stated = ("_class_name", "sample_size")
    config = {name: value for name, value in whole.items() if (name not in left_out if left_out else name in stated)}
    found = layout_of(config, "config.json")
    shapes = {name: tensor.shape for name, tensor in found.to_theirs(found.skeleton()).items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
