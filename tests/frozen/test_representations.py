"""A frozen encoder with a trained decoder: features, training from the command line, codec, refusals."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from configurations import composing
from omegaconf import OmegaConf
from timm.models import save_for_hf

from denoiselab.app.building import check_run
from denoiselab.app.config import overrides, resolvers
from denoiselab.frozen import FrozenEncoder, RAECodec, RepresentationAutoencoder
from denoiselab.frozen.representations import timm_config

NAME = "vit_tiny_patch16_224"
SIZES = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
SMALL = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    vit = timm.create_model(NAME, img_size=(16, 16), **SIZES)
    path = tmp_path_factory.mktemp("vit")
    save_for_hf(vit, path, model_args=SIZES, safe_serialization=True)
    return path


def made(folder, **options):
    torch.manual_seed(1)
    network = RepresentationAutoencoder(
        **{"shape": [3, 16, 16], "encoder": timm_config(str(folder)), **SMALL, **options}
    )
    FrozenEncoder(str(folder)).check(network)
    return network


def test_latents_are_the_features_of_patches(folder):
    network, x = made(folder), torch.rand(2, 3, 16, 16) * 2 - 1
    vit = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=(16, 16)).eval()
    states = []
    vit.norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    with torch.no_grad():
        vit.forward_features((x + 1) / 2 / 0.5 - 1)
    tokens = F.layer_norm(states[0], (12,), eps=1e-6)[:, 1:]
    expected = tokens.reshape(2, 4, 4, 12).permute(0, 3, 1, 2)
    assert network.latent_shape == (12, 4, 4)
    assert float((network.encode_pixels(x) - expected).abs().max()) < 1e-5
    assert float(expected.std()) > 0.5
    other = made(folder, shape=[1, 24, 24], grid=[4, 4])  # grey, and resized to the encoder's 16x16
    grey = torch.rand(2, 1, 24, 24) * 2 - 1
    resized = F.interpolate(grey, (16, 16), mode="bicubic", antialias=True).expand(-1, 3, -1, -1)
    assert float((other.encode_pixels(grey) - network.encode_pixels(resized)).abs().max()) < 1e-5
    assert other.decode(torch.zeros(2, 12, 6, 4)).shape == (2, 1, 36, 24)


def test_the_decoder_alone_is_trained_and_on_noisy_latents(folder):
    network, x = made(folder, noise=0.5).train(), torch.rand(3, 3, 16, 16)
    given = []
    network.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    drawn = torch.randn(3, 1 + 12 * 16, generator=torch.Generator().manual_seed(2))
    made_of = network.train_pass(x, lambda shape: drawn)
    expected = made_of.kept + 0.5 * drawn[:, :1, None, None].abs() * drawn[:, 1:].reshape(3, 12, 4, 4)
    assert torch.equal(given[0], expected)
    made_of.images.mean().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in network.named_parameters() if not name.startswith("encoder.")}
    assert not network.encoder.inner.training


def test_a_run_gives_a_codec_with_the_encoder_and_needs_no_folder_of_it(folder, tmp_path, invoke):
    own = tmp_path / "vit"
    own.mkdir()
    for file in folder.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    options = ["experiment=autoencoder_rae_emoji", "data=digits", "network.grid=[4,4]"]
    options += [f"network.{name}={value}" for name, value in SMALL.items()]
    options += ["batch_size=16", "max_images=64", "lr_schedule.images=16", "logger=none", "trainer=cpu"]
    options += ["evaluation/extractor=classifier", "evaluation.extractor.epochs=1", "evaluation.num_samples=64"]
    options += [f"paths.run_dir={tmp_path / 'run'}", f"objective.regulariser.path={own}"]
    assert invoke("train.py", *options).code == 0
    (own / "model.safetensors").unlink()
    result = invoke(
        "sample.py", f"ckpt={tmp_path / 'run'}", "task=reconstruct", "num_samples=4", f"out={tmp_path / 'out'}"
    )
    assert result.code == 0, result.err
    stage = tmp_path / "run" / "first_stage"
    codec = RAECodec(str(stage), [1, 8, 8])
    x = torch.rand(64, 1, 8, 8) * 2 - 1
    latents = codec.encode_latents(codec.encode_pixels(x), torch.zeros)
    assert codec.latent_shape == tuple(latents.shape[1:]) == (12, 4, 4)
    network = made(folder, shape=[1, 8, 8], grid=[4, 4])
    content = json.loads((stage / "config.json").read_text())
    scale, shift = (torch.tensor(content[name]).view(-1, 1, 1) for name in ("scale", "shift"))
    assert float((latents - (network.encode_pixels(x) - shift) * scale).abs().max()) < 1e-4
    before = RepresentationAutoencoder(**{key: value for key, value in content.items() if key != "_target_"})
    assert not torch.equal(before.decode(latents), codec.decode(latents))
    result = invoke(
        "train.py", "data=digits", "data.shape=[1,4,4]", "codec=rae", f"codec.path={stage}", "network=dit_tiny"
    )
    assert "its images are [1, 8, 8]; data.shape=[1, 4, 4] is not" in result.last


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": [2, 16, 16]}, "takes grey or RGB images"),
        (
            {"grid": [5, 5]},
            r"grid=\[5, 5\]: its patches must be squares that fill images of 16x16; the encoder's have 4",
        ),
        ({"shape": [3, 18, 18]}, r"grid=\[4, 4\]: its patches must be squares"),
        ({"width": 18}, "width=18: heads=2 and 4 must divide it"),
        ({"noise": -1}, "noise=-1: it must be at least 0"),
        ({"encoder": {"architecture": "hf-hub:some/thing"}}, "timm has no model hf-hub:some/thing"),
        ({"encoder": {"architecture": "resnet18"}}, "it is no vision transformer"),
    ],
)
def test_what_does_not_fit_is_refused(options, says, folder):
    with pytest.raises(ValueError, match=says):
        made(folder, **options)


def test_folders_without_weights_or_of_others_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    network = made(folder)
    with pytest.raises(ValueError, match=r"has no model\.safetensors, the weights of its encoder"):
        FrozenEncoder(str(tmp_path)).check(network)
    with pytest.raises(ValueError, match="it is for a RepresentationAutoencoder, not for a Linear"):
        FrozenEncoder(str(folder)).check(torch.nn.Linear(1, 1))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"its config\.json names no architecture"):
        timm_config(str(tmp_path))
    with pytest.raises(ValueError, match=r"the files in .* have changed"):
        FrozenEncoder(str(folder), sha256="0").check(network)


def test_the_published_recipe_fits(tmp_path, monkeypatch):
    resolvers.register()
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    monkeypatch.setattr("denoiselab.frozen.perceptual.NetworkDistance._loaded", lambda self: None)
    monkeypatch.setattr("denoiselab.evaluation.features.fidelity.InceptionV3.check_weights", lambda self, layers: "")
    monkeypatch.setattr(FrozenEncoder, "check", lambda self, network: built.append(network))
    built = []
    (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch14_reg4_dinov2"}')
    options = ["data.root=none", "trainer=cpu", "objective.perceptual.path=none"]
    with composing():
        config = overrides.composed(
            "train", ["experiment=autoencoder_rae_dinov2_b", f"objective.regulariser.path={tmp_path}", *options]
        )
        check_run.check_config(OmegaConf.to_container(config, resolve=True), sweeping=False)
    assert built[0].latent_shape == (768, 16, 16)
    assert (len(built[0].decoder.blocks), built[0].decoder.head.out_features) == (28, 3 * 16 * 16)
