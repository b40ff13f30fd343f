"""Pipelines of latent diffusion as run directories: images of ours against their own, from the same latents."""

import json
import shutil

import diffusers
import pytest
import torch
from frozen_models import FEATURES, autoencoder, edited, text_encoder
from latent_runs import ours, scheduler, theirs
from omegaconf import OmegaConf
from randomised import randomised
from safetensors.torch import load_file, save_file

from denoiselab.app.building import imports
from denoiselab.errors import BadInput
from denoiselab.interop import dit as official
from denoiselab.interop.config_nodes import node
from denoiselab.interop.diffusers.dit import dit
from denoiselab.training.checkpoint_files import read_checkpoint

BLOCKS = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "sample_size": 4,
}


def dit_pipeline():
    options = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}  # its null class is 1000
    model = randomised(diffusers.DiTTransformer2DModel(**options, sample_size=4, out_channels=8))
    first, second = (block.norm1.emb for block in model.transformer_blocks)
    second.load_state_dict(first.state_dict())  # as in all released weights
    return diffusers.DiTPipeline(model, autoencoder("AutoencoderKL"), scheduler())


def stable_diffusion():
    unet = diffusers.UNet2DConditionModel(
        **BLOCKS,
        cross_attention_dim=FEATURES,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    encoder, tokenizer = text_encoder()
    return diffusers.StableDiffusionPipeline(
        autoencoder("AutoencoderKL", scaling_factor=0.5), encoder, tokenizer, randomised(unet), scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip


def latent_diffusion():
    unet = diffusers.UNet2DModel(
        **BLOCKS,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return diffusers.LDMPipeline(autoencoder("VQModel", latent_channels=4), randomised(unet), scheduler())


PROMPTS = ["a dog", "seven"]
PIPELINES = {
    "DiT": (dit_pipeline, {"class_labels": [3, 0], "guidance_scale": 4.0}, {"classes": [3, 0]}, 4.0),
    "Stable Diffusion": (stable_diffusion, {"prompt": PROMPTS, "guidance_scale": 3.0}, {"prompts": PROMPTS}, 3.0),
    "negative prompts": (
        stable_diffusion,
        {"prompt": PROMPTS, "negative_prompt": ["seven", "a cat"], "guidance_scale": 3.0},
        {"prompts": PROMPTS, "negative_prompts": ["seven", "a cat"]},
        3.0,
    ),
    "LDM": (latent_diffusion, {"batch_size": 2}, {}, 1.0),
}


@pytest.mark.parametrize(("name", "variant"), [*((name, None) for name in PIPELINES), ("Stable Diffusion", "fp16")])
def test_an_imported_pipeline_gives_the_images_of_its_own(name, variant, tmp_path, monkeypatch):
    make, options, conditions, scale = PIPELINES[name]
    pipeline = make()
    pipeline.save_pretrained(tmp_path / "pipeline", variant=variant)
    source = node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(tmp_path / "pipeline"))
    run = imports.run_directory(source, tmp_path / "logs")
    assert imports.run_directory(source, tmp_path / "logs") == run
    shutil.rmtree(tmp_path / "pipeline")  # the run directory holds all that it needs, wherever it goes
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt")]
    run = run.rename(tmp_path / "elsewhere")
    expected = theirs(pipeline, options, monkeypatch)
    assert float(expected.std()) > 0.01
    found = ours(run, conditions, scale)
    assert found.shape == expected.shape == (2, 1, 8, 8)
    assert float((found - expected).abs().max()) < 1e-4
    assert OmegaConf.load(run / "config.yaml").data.shape == [1, 8, 8]


def test_official_dit_weights_with_an_autoencoder(tmp_path, invoke):
    pipeline = dit_pipeline()
    layout = dit(dict(pipeline.transformer.config))
    options = {**layout.options, "frequency_shift": 0, "mlp_norm_eps": 1e-6}
    state = layout.to_ours(pipeline.transformer.state_dict(), tmp_path)
    torch.save(official.to_official(options, state), tmp_path / "dit.pt")
    pipeline.vae.save_pretrained(tmp_path / "vae")
    place = {"path": str(tmp_path / "dit.pt"), "num_heads": 2}
    run = imports.run_directory(
        node("denoiselab.interop.dit.Checkpoint", **place, vae=str(tmp_path / "vae")), tmp_path / "logs"
    )
    assert ours(run, {}, 2.0).shape == (2, 1, 8, 8)
    latents = imports.run_directory(node("denoiselab.interop.dit.Checkpoint", **place), tmp_path / "logs")
    assert ours(latents, {}, 2.0).shape == (2, 4, 4, 4)
    assert latents != run
    out = tmp_path / "out"
    assert invoke("sample.py", f"ckpt={run}", "task=export", "task.format=dit", f"out={out}").code == 0
    written, original = (torch.load(path, weights_only=True) for path in (out / "model.pt", tmp_path / "dit.pt"))
    assert all(torch.equal(written[name], tensor) for name, tensor in original.items())
    edited(run / "codec" / "config.json", scale=0.5)
    config = read_checkpoint(run / "checkpoints" / "last.ckpt")
    config["denoiselab"]["config"]["codec"]["sha256"] = None
    torch.save(config, run / "checkpoints" / "other.ckpt")
    result = invoke(
        "sample.py",
        f"ckpt={run / 'checkpoints' / 'other.ckpt'}",
        "task=export",
        "task.format=dit",
        f"out={tmp_path / 'no'}",
    )
    assert result.code == 2
    assert "task.format=dit: codec.scale=0.5: DiT's own code has 0.18215" in result.last


def unlike(folder):
    autoencoder("AutoencoderKL", latent_channels=3).save_pretrained(folder / "vae")


def with_bias(change):
    def changed(folder):
        file = folder / "text_encoder" / "model.safetensors"
        state = load_file(file)
        (name,) = (name for name in state if name.endswith("final_layer_norm.bias"))
        save_file({**state, name: change(state[name])}, file, {"format": "pt"})

    return changed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "it has no text_encoder"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "it has no tokenizer"),
        (unlike, "its latents have 3 channels, and the network takes 4"),
        (
            lambda folder: edited(folder / "vae" / "config.json", _class_name="AutoencoderOobleck"),
            "AutoencoderOobleck is no",
        ),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "damaged"),
        (lambda folder: (folder / "text_encoder" / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (with_bias(lambda bias: bias * torch.nan), "'final_layer_norm.bias' holds numbers that are not finite"),
        (with_bias(torch.Tensor.int), "final_layer_norm.bias' is of int32, where real numbers"),
        (
            lambda folder: edited(folder / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
            "alpha=0, sig",
        ),
        (
            lambda folder: edited(folder / "unet" / "config.json", sample_size=2**20),
            "network: its sizes do not fit samples of shape",
        ),
        (
            lambda folder: edited(folder / "unet" / "config.json", sample_size=2**40),
            "network: samples of shape .* are too large to allocate",
        ),
        (
            lambda folder: edited(folder / "unet" / "config.json", sample_size=2**70),
            "network: samples of shape .* are too large to allocate",
        ),
        (lambda folder: edited(folder / "text_encoder" / "config.json", hidden_size=8), "8 features, and the network"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(change, says, stored, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(stored, folder)
    change(folder)
    source = node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(folder))
    with pytest.raises(BadInput, match=says):
        imports.run_directory(source, tmp_path / "logs")
    assert not list((tmp_path / "logs").rglob("*.ckpt"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "stable"
    stable_diffusion().save_pretrained(folder)
    return folder


def test_texts_are_asked_for_and_drawn(stored, tmp_path, invoke):
    place = ["import=diffusers", f"import.path={stored}", f"log_dir={tmp_path / 'logs'}", "num_samples=2"]
    result = invoke("sample.py", *place, "sampler.steps=2")
    assert result.code == 2
    assert "conditioner.prompts=null: captions of held-out data" in result.last
    result = invoke("sample.py", *place, "sampler.steps=2", "guidance=3", "conditioner.prompts=[a dog]")
    assert result.code == 0, result.err
    (record,) = (tmp_path / "logs").rglob("samples.json")
    assert json.loads(record.read_text())["conditioner"]["prompts"] == ["a dog"]
