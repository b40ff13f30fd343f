"""Latent models as pipelines of diffusers: images of theirs and of what is imported back against ours."""

import diffusers
import pytest
import test_ldm
import torch
from frozen_models import FEATURES, LENGTH, edited, write_text_encoder
from latent_runs import ours, theirs
from randomised import randomised
from test_latent_pipelines import PROMPTS, latent_diffusion, stable_diffusion

from denoiselab.app.building import imports
from denoiselab.app.tasks.export import texts_of
from denoiselab.codecs import AutoencoderKL, AutoencoderTiny, VQModel
from denoiselab.conditioners import Text, TextTransformer
from denoiselab.denoiser import Denoiser, StepIndex
from denoiselab.frozen import TextEncoder
from denoiselab.interop.config_nodes import node
from denoiselab.interop.diffusers.autoencoders import autoencoder_config
from denoiselab.interop.diffusers.pipelines import Pipeline, read_model
from denoiselab.interop.diffusers.unet_text import unet_condition_config
from denoiselab.interop.diffusers.writing import Latent, write_pipeline
from denoiselab.networks import DDPMUNet, TextUNet
from denoiselab.parameterizations import eps
from denoiselab.schedules import DiscreteVP, betas
from denoiselab.training.checkpoint_files import read_checkpoint

SHORT = LENGTH - 2
AUTOENCODER = {"shape": (1, 8, 8), "channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}
UNET = {"shape": (4, 4, 4), "channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention_levels": ()}
TEXT_UNET = {**UNET, "heads": 2, "token_features": FEATURES}


def run_of(folder, logs):
    return imports.run_directory(node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(folder)), logs)


def stored(pipeline, folder, **encoder):
    """The run directory of a pipeline, with other options of its text encoder."""
    pipeline.save_pretrained(folder / "pipeline")
    run = run_of(folder / "pipeline", folder / "logs")
    changed(run, encoder)
    return run


def changed(run, encoder):
    """Change options of the run's text encoder, and let its autoencoder be changed."""
    path = run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    content["denoiselab"]["config"]["codec"]["sha256"] = None
    if encoder:
        content["denoiselab"]["config"]["conditioner"]["encoder"] |= encoder
    torch.save(content, path)


@pytest.mark.parametrize("kind", ["text", "LDM's text", "no text"])
def test_an_exported_latent_model_gives_our_images_there_and_back(kind, tmp_path, invoke, monkeypatch):
    """Of one factor a channel, a shift, and texts shorter than the encoder takes."""
    if kind == "text":
        run = stored(stable_diffusion(), tmp_path, length=SHORT)
        edited(run / "codec" / "config.json", scale=[0.5, 0.7, 0.4, 1.5], shift=[0.1, -0.2, 0.3, 0.0])
        options, conditions, scale = {"prompt": PROMPTS, "guidance_scale": 3.0}, {"prompts": PROMPTS}, 3.0
    elif kind == "LDM's text":
        run = stored(test_ldm.latent_diffusion()[0], tmp_path)
        options, conditions, scale = {"prompt": PROMPTS, "guidance_scale": 3.0}, {"prompts": PROMPTS}, 3.0
        options |= {"height": 32, "width": 32}  # it takes every factor for 8
    else:
        run = stored(latent_diffusion(), tmp_path)
        edited(run / "codec" / "config.json", scale=0.7)
        options, conditions, scale = {"batch_size": 2}, {}, 1.0
    expected, out = ours(run, conditions, scale), tmp_path / "out"
    assert float(expected.std()) > 0.01
    result = invoke("sample.py", f"ckpt={run}", "task=export", f"out={out}")
    assert result.code == 0, result.err
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out)
    name = {"text": "StableDiffusionPipeline", "LDM's text": "LDMTextToImagePipeline"}.get(kind, "LDMPipeline")
    assert type(pipeline).__name__ == name
    assert f"{name} of diffusers, weights raw" in result.out
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler
    assert float((theirs(pipeline, options, monkeypatch) - expected).abs().max()) < 1e-4
    back = ours(run_of(out, tmp_path / "again"), conditions, scale)
    assert float((back - expected).abs().max()) < 1e-5
    if kind == "text":
        changed(run, {"masked": True})
        result = invoke("sample.py", f"ckpt={run}", "task=export", f"out={tmp_path / 'no'}")
        assert result.code == 2
        assert (
            "task.format=diffusers: conditioner.encoder.masked=true: StableDiffusionPipeline passes no" in result.last
        )
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("convolutions", [True, False])
def test_scale_and_shift_of_channels_are_in_the_written_autoencoder(convolutions, tmp_path):
    numbers = {"scale": [0.5, 2.0, 1.25], "shift": [0.5, -1.0, 0.25]}
    options = {**AUTOENCODER, "latent_channels": 3, "quantization_convs": convolutions, **numbers}
    model = randomised(AutoencoderKL(**options))
    network = {**UNET, "shape": (3, 4, 4), "num_classes": 5}
    denoiser = Denoiser(randomised(DDPMUNet(**network)), DiscreteVP(betas.linear()), eps, StepIndex())
    # Networks with classes have no pipeline there.
    assert write_pipeline(tmp_path, denoiser, network, Latent(AutoencoderKL, options, model.state_dict())) is None
    assert {path.name for path in tmp_path.iterdir()} == {"unet", "scheduler", "vqvae"}
    assert Pipeline(str(tmp_path)).read().codec["path"] == str(tmp_path / "vqvae")
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "vqvae")
    assert vae.config.scaling_factor == 1
    x, z = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 4, 4)
    found = vae.encode(x).latent_dist
    torch.testing.assert_close(found.mean, model.encode_latents(model.encode_pixels(x)), rtol=1e-5, atol=1e-5)
    drawn = model.encode_latents(model.encode_pixels(x), z)
    torch.testing.assert_close(found.mean + found.std * z, drawn, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vae.decode(z).sample, model.decode(z), rtol=1e-5, atol=1e-5)
    layout, state, _ = read_model(tmp_path / "vqvae")
    torch.testing.assert_close(layout.built(state).decode(z), model.decode(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_classes": 3, "class_token": True}, "network.class_token=True: StableDiffusionPipeline supports only F"),
        ({"num_classes": 3}, "network.num_classes=3: StableDiffusionPipeline supports only None"),
        ({"vector_features": 6}, "network.vector_features=6: StableDiffusionPipeline supports only None"),
        ({"image_channels": 5}, "network.image_channels=5: StableDiffusionPipeline supports only None"),
        ({"multipliers": (2, 4)}, "network.multipliers=.2, 4.: UNet2DConditionModel needs whole numbers, the first 1"),
    ],
)
def test_networks_that_no_pipeline_of_latents_takes_are_not_written(options, says):
    with pytest.raises(ValueError, match=says):
        unet_condition_config({**TEXT_UNET, **options})


def test_parts_that_diffusers_does_not_have_are_not_written(tmp_path):
    for change in ({"shift": 0.5}, {"scale": [1.0, 2.0, 3.0]}, {"normalised": True}):
        with pytest.raises(ValueError, match=f"codec.{next(iter(change))}=.*: diffusers' VQModel has one factor"):
            autoencoder_config(VQModel, {**AUTOENCODER, **change}, {})
    with pytest.raises(ValueError, match="codec=AutoencoderTiny: only AutoencoderKL and VQModel can be written"):
        autoencoder_config(AutoencoderTiny, {}, {})
    denoiser = Denoiser(TextUNet(**TEXT_UNET), DiscreteVP(betas.linear()), eps, StepIndex())
    latent = Latent(AutoencoderKL, AUTOENCODER, {})
    with pytest.raises(ValueError, match="conditioner: StableDiffusionPipeline needs a text encoder"):
        write_pipeline(tmp_path, denoiser, TEXT_UNET, latent)
    with pytest.raises(ValueError, match="network=TextUNet: only DDPMUNet, ADMUNet and, on latents, TextUNet"):
        write_pipeline(tmp_path, denoiser, TEXT_UNET)

    class Letters:
        vocabulary = 256

        def __call__(self, text):
            return list(text.encode())

    joint = TextTransformer(Letters(), width=8, depth=1, heads=1, head_features=4)
    with pytest.raises(ValueError, match="encoder=TextTransformer: it was trained with the denoiser, and diffusers a"):
        texts_of(Text(joint))
    pooled = TextEncoder(str(write_text_encoder(tmp_path)), length=LENGTH, masked=False, pooled=True)
    with pytest.raises(ValueError, match=r"encoder\.pooled=true: StableDiffusionPipeline takes the features"):
        texts_of(Text(pooled))
