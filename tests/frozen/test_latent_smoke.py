"""Every shipped sampler and guider on a tiny latent model with texts: finite images, and the calls that are stated."""

from __future__ import annotations

import pytest
import torch
from configurations import build, complete, names
from frozen_models import FEATURES, LENGTH, autoencoder, write_text_encoder
from oracles import draws, measured, mixture, variant

from denoiselab import parameterizations
from denoiselab.conditioners import Text
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.frozen import KLCodec, TextEncoder
from denoiselab.guidance import Auto, Guidance
from denoiselab.model import Model
from denoiselab.networks import TextUNet
from denoiselab.samplers import DDIM
from denoiselab.schedules import VPLinear

SMALL = {"channels": 8, "multipliers": [1], "blocks": 1, "attention_levels": [0], "heads": 1, "groups": 4}
# Those that name the guide of a published model are `auto` with options.
GUIDERS = sorted({"auto", *(name for name in names("guider") if not name.startswith("edm2") and name != "auto")})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    autoencoder("AutoencoderKL").save_pretrained(folder / "vae")
    encoder = TextEncoder(str(write_text_encoder(folder)), length=LENGTH)
    torch.manual_seed(0)
    network = TextUNet([4, 4, 4], **SMALL, token_features=FEATURES)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime()).eval()
    conditioner = Text(encoder, dropout=0.1, prompts=["a dog", "seven"])
    return Model(denoiser, conditioner, KLCodec(str(folder / "vae"), [1, 8, 8]))


@pytest.fixture
def rows(model):
    """Numbers of samples of the calls of the network."""
    seen = []
    hook = model.denoiser.network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", complete("sampler"))
def test_every_sampler(name, model, rows):
    sampler = variant(build("sampler", name), repeats=2, threshold=None)
    if sampler.adaptive:
        sampler = variant(sampler, rtol=1.0, atol=1.0)
    sampler = measured(sampler, mixture(), draws(mixture(), 50))
    images = model.sample(sampler, 2, steps=2)
    assert images.shape == (2, 1, 8, 8)
    assert sum(rows) % 2 == 0
    if not sampler.adaptive:
        assert sum(rows) == 2 * sampler.nfe(2, model.denoiser.schedule)


@pytest.mark.parametrize("name", GUIDERS)
def test_every_guider(name, model, rows):
    guider = Auto(guide=model.denoiser, named="itself") if name == "auto" else build("guider", name)
    scale = 0.6 if name == "cfgpp" else 3.0
    plain = model.sample(DDIM(), 2, steps=2)
    before = sum(rows)
    images = model.sample(DDIM(), 2, steps=2, guidance=Guidance(scale, guider))
    assert images.shape == plain.shape
    assert before == 2 * 2
    assert sum(rows) - before == (2 if name == "cfg_zero_star" else 4) * 2  # whose first step is zero, without a call
