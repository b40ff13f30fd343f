"""A model that is loaded from Python is in evaluation mode, whichever way it comes; one that is trained is not."""

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from frozen_models import UNET2D, autoencoder

from denoiselab.frozen import KLCodec
from denoiselab.interop.diffusers.pipelines import Pipeline, read_model
from denoiselab.pretrained import read, read_weights
from denoiselab.training.ema import EMA
from denoiselab.training.module import DiffusionModule


def same_twice(module, *arguments):
    with torch.no_grad():
        first, second = (module(*arguments) for _ in range(2))
    return torch.equal(getattr(first, "x0", first), getattr(second, "x0", second))


@pytest.fixture
def checkpoint(finished, tmp_path):
    """A run whose network has dropout."""
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["denoiselab"]["config"]["network"]["dropout"] = 0.5
    torch.save(content, path)
    return path


@pytest.mark.parametrize("reads", [read, lambda path: read_weights(path, "ema")[0]], ids=["read", "read_weights"])
def test_a_checkpoint(reads, checkpoint):
    denoiser = reads(checkpoint).model.denoiser
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    level = denoiser.schedule.level(torch.full((4,), 0.5))
    assert same_twice(denoiser, x, level)
    assert not any(module.training for module in denoiser.modules())
    assert not same_twice(denoiser.train(), x, level)  # so the test sees dropout


def test_a_run_of_one_seed_twice(checkpoint, tmp_path, invoke):
    for out in ("a", "b"):
        result = invoke("sample.py", f"ckpt={checkpoint}", f"out={tmp_path / out}", "num_samples=2", "sampler.steps=3")
        assert result.code == 0, result.err
    assert (tmp_path / "a" / "000000.png").read_bytes() == (tmp_path / "b" / "000000.png").read_bytes()


def test_training_has_dropout_whatever_it_was_given(checkpoint):
    model = read(checkpoint).model
    objective = torch.nn.Dropout().eval()
    module = DiffusionModule(model, objective, torch.optim.SGD, lambda seen: 1.0, EMA({}), 0, {})
    module.on_fit_start()
    assert all(part.training for part in model.denoiser.modules())
    assert objective.training


def test_models_of_diffusers(tmp_path):
    torch.manual_seed(0)
    UNet2DModel(**UNET2D, dropout=0.5).save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    imported = Pipeline(str(tmp_path)).read()
    layout, weights, _ = read_model(tmp_path / "unet")
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 7.0])
    for network in (imported.layout.built(imported.weights), layout.built(weights)):
        assert same_twice(network, x, t)
        assert not same_twice(network.train(), x, t)


def test_autoencoders(tmp_path):
    autoencoder("AutoencoderKL").save_pretrained(tmp_path / "vae")
    assert not KLCodec(str(tmp_path / "vae"), [1, 8, 8]).read().training
