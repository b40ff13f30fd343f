"""Runs conditioned on images and class tokens, through the command line."""

import json

import numpy as np
import pytest
from conftest import QUICK
from frozen_models import LENGTH, autoencoder, write_text_encoder

UNET = ["network=unet_text", "network.channels=8", "network.multipliers=[1,2]", "network.blocks=1", "network.groups=4"]
UNET += ["network.attention_levels=[1]", "network.heads=2"]
FAST = [argument for argument in QUICK if not argument.startswith("network.")]
FAST += ["callbacks.frontier.every_images=null", "evaluation.nfe=[2]", "logger=none"]
CAPTIONS = ["data._target_=frozen_models.CaptionedDigits"]


@pytest.fixture
def train(invoke, tmp_path):
    return lambda *arguments: invoke(
        "train.py", *FAST, f"paths.log_dir={tmp_path / 'logs'}", f"paths.run_dir={tmp_path / 'run'}", *arguments
    )


def test_a_hybrid_of_text_and_inpainting_in_latents(train, invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "frozen_models.")
    autoencoder("AutoencoderKL").save_pretrained(tmp_path / "vae")
    encoder = f"conditioner.parts.text.encoder.path={write_text_encoder(tmp_path)}"
    own = ["conditioner=text_inpainting", encoder, f"conditioner.parts.text.encoder.length={LENGTH}"]
    result = train(*UNET, *CAPTIONS, "codec=autoencoder_kl", f"codec.path={tmp_path / 'vae'}", *own)
    assert result.code == 0, result.err
    asked = [f"ckpt={tmp_path / 'run'}", "num_samples=2", "sampler.steps=2", "guidance=100", "format=npz"]
    for name in ("first", "second"):
        changed = ["conditioner.prompts=[seven]"] * (name == "second")
        result = invoke("sample.py", *asked, f"out={tmp_path / name}", *changed)
        assert result.code == 0, result.err
    first, second = (np.load(tmp_path / name / "samples.npz")["images"] for name in ("first", "second"))
    assert first.shape == (2, 8, 8, 1)
    assert (first != second).any()
    record = json.loads((tmp_path / "second" / "samples.json").read_text())
    assert record["conditioner"]["prompts"] == ["seven"]


@pytest.mark.parametrize("choice", ["class_token", "low_resolution_noise"])
def test_other_conditions_train_and_sample(choice, train, invoke, tmp_path):
    network = UNET if choice == "class_token" else ["network=adm_upsampler", *UNET[1:5], "network.head_channels=null"]
    own = ["network.token_features=8"] if choice == "class_token" else ["conditioner.sample_noise=0.2"]
    result = train(*network, *own, f"conditioner={choice}", "network.attention_levels=[1]")
    assert result.code == 0, result.err
    guided = ["guidance=2"] if choice == "class_token" else []
    result = invoke("sample.py", f"ckpt={tmp_path / 'run'}", "num_samples=2", "sampler.steps=2", *guided)
    assert result.code == 0, result.err
