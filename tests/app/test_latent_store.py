"""Latents in a folder: `python -m denoiselab.convert to=latents`, and trainings that read them."""

import shutil

import pytest
import torch
from conftest import QUICK
from frozen_models import autoencoder, edited

from denoiselab.training.checkpoint_files import read_checkpoint
from denoiselab.training.module import DiffusionModule

PROGRAM = "src/denoiselab/convert.py"
FAST = [argument for argument in QUICK if not argument.startswith("network.")]
FAST += ["callbacks.frontier.every_images=null", "callbacks.preview.every_images=null", "evaluation.nfe=[2]"]
FAST += ["logger=none", "network=dit_tiny", "network.depth=1", "network.width=24", "network.heads=2"]


@pytest.fixture
def made(invoke, tmp_path, monkeypatch):
    """The folders of an autoencoder and of latents of digits."""
    monkeypatch.chdir(tmp_path)
    autoencoder("AutoencoderKL").save_pretrained(tmp_path / "vae")
    given = [
        PROGRAM,
        "to=latents",
        "debug=fast_dev_run",
        "codec=autoencoder_kl",
        f"codec.path={tmp_path / 'vae'}",
        f"out={tmp_path / 'out'}",
    ]
    result = invoke(*given, "images_per_shard=40")
    assert result.code == 0, result.err
    assert "latents of 64 images and of their mirror images" in result.out
    (folder,) = (tmp_path / "out").iterdir()
    assert f"train with: latents={folder}" in result.out
    assert invoke(*given, "images_per_shard=40").code == 0
    return tmp_path / "vae", folder


@pytest.fixture
def train(invoke, tmp_path):
    def call(name, vae, *arguments):
        run = [f"paths.log_dir={tmp_path / 'logs'}", f"paths.run_dir={tmp_path / name}"]
        return invoke("train.py", *FAST, *run, "codec=autoencoder_kl", f"codec.path={vae}", *arguments)

    return call


def test_training_reads_pixels_or_latents_with_equal_losses(made, train, tmp_path, monkeypatch):
    vae, folder = made
    losses, encoders = {}, {}
    step = DiffusionModule.training_step

    def seen(self, batch, number):
        out = step(self, batch, number)
        losses.setdefault(name, []).append(float(out["loss"]))
        encoders[name] = "encoder" in dict(self.batch_loss.model.codec._module.named_children())
        assert ("images" in batch) != (name == "latents")
        return out

    monkeypatch.setattr(DiffusionModule, "training_step", seen)
    for name, given in (("pixels", []), ("latents", [f"latents={folder}"])):
        result = train(name, vae, *given, "augmentation=flip", "conditioner=label")
        assert result.code == 0, result.err
    assert losses["latents"] == pytest.approx(losses["pixels"], abs=1e-6)
    assert encoders == {"pixels": True, "latents": False}
    weights = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in losses]
    for key, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][key], atol=1e-4), key


def test_what_does_not_fit_is_refused(made, train, invoke, tmp_path):
    vae, folder = made
    other = shutil.copytree(vae, tmp_path / "other")
    edited(other / "config.json", scaling_factor=3.0)
    shard = folder / "000001.npy"
    for changes, says in (
        (["data.validation=0.3"], ", 64); make them with python -m denoiselab.convert"),
        ([f"codec.path={other}"], "they are of another codec (KLCodec "),
        (["codec.scale=2.0"], "they were made with scale=0.18215 shift=0.0, and the codec has scale=2.0 shift=0.0"),
        (["augmentation=shift", "augmentation.pixels=1"], "augmentation=Shift: latents="),
        (["latents=/nowhere"], "latents=/nowhere: no such folder; name a folder that "),
    ):
        result = train("refused", vae, f"latents={folder}", *changes)
        assert result.code == 2, result.err
        assert says in result.last
    result = invoke("train.py", *FAST, "paths.log_dir=logs", f"latents={folder}")
    assert result.code == 2
    assert "there are no latents of codec=Identity; choose codec=autoencoder_kl" in result.last
    shard.write_bytes(shard.read_bytes()[:-1])
    result = train("refused", vae, f"latents={folder}")
    assert result.code == 2
    assert f"latents={folder}: 000001.npy has " in result.last
    assert not (tmp_path / "refused").exists()
    for changes, says in (
        (["to=movies"], "to=movies: it must be shards, latents or checkpoint"),
        (["to=latents"], "codec=Identity: it has no latents to store"),
        (["to=latents", "dtype=int8"], "dtype=int8: it must be float32 or float16"),
        (["to=latents", "crops=2"], "crops=2: images have one crop; choose data.resize=random_crop"),
        (["to=latents", "references=true"], "references=true: it is for shards of images"),
        (["flips=false", "data=fashion_mnist"], "flips=false: it has no effect without to=latents"),
    ):
        result = invoke(PROGRAM, "out=x", *changes)
        assert result.code == 2, result.err
        assert says in result.last
