"""First stages: trained, continued, measured, written, read as codecs, refused where samples are asked for."""

from __future__ import annotations

import json
import random
import signal
import time

import numpy as np
import pytest
import torch
from configurations import build, composing
from omegaconf import OmegaConf
from PIL import Image

import denoiselab
from denoiselab.app.building import check_run
from denoiselab.app.config import overrides, resolvers
from denoiselab.codecs import Adversary
from denoiselab.from_config import build as built
from denoiselab.frozen import KLCodec
from denoiselab.stored import to_uint8

SMALL = [
    "experiment=autoencoder_kl_digits",
    "network.channels=8",
    "network.groups=4",
    "lr_schedule=warmup",
    "lr_schedule.images=32",
    "batch_size=16",
    "max_images=64",
    "callbacks.held_out.every_images=32",
    "callbacks.held_out.num_samples=16",
    "callbacks.preview.every_images=64",
    "callbacks.loss_log.every_images=32",
    "evaluation.extractor.epochs=1",
    "evaluation.num_samples=64",
    "logger=none",
    "trainer=cpu",
]
ADVERSARY = [
    "adversary@objective.adversary=patch",
    "objective.adversary.discriminator.layers=1",
    "objective.adversary.discriminator.channels=8",
    "objective.adversary.start=32",
    "objective.adversary.lr=0.5",
]

_MADE: list = []  # trained once, inside this process


@pytest.fixture
def run(invoke, tmp_path_factory):
    """The directory of a quick first stage's run, with a discriminator that starts within it."""
    if not _MADE:
        path = tmp_path_factory.mktemp("first_stage") / "run"
        result = invoke("train.py", *SMALL, *ADVERSARY, f"paths.run_dir={path}")
        assert result.code == 0, result.err
        assert (
            "a first stage: images of 1x8x8 to latents of 4x4x4; L1, KLPenalty, a discriminator from 32" in result.err
        )
        assert "64 held-out images, weights ema: psnr " in result.out
        _MADE.append(path)
    return _MADE[0]


def test_a_run_measures_held_out_images(run):
    measured = json.loads((run / "reconstruction.json").read_text())
    codec = KLCodec(str(run / "first_stage"), (1, 8, 8))
    data = build("data", "digits").load()[1]
    index = torch.arange(64)
    kept = codec.encode_pixels(data.inputs(index))
    mode = codec._on(kept.device).encode_latents(kept, None)
    made, x = to_uint8(codec.decode(mode)).double(), data.stored(index).double()
    mse = (made - x).square().flatten(1).mean(1)
    assert measured["psnr"] == pytest.approx(float((10 * (255**2 / mse).log10()).mean()), rel=1e-5)
    assert measured["l1"] == pytest.approx(float((made - x).abs().mean()) / 127.5, rel=1e-5)
    assert (measured["n"], measured["split"], measured["latents"], measured["weights"]) == (
        64,
        "held_out",
        "mode",
        "ema",
    )
    assert measured["rfd"] > 0
    assert "ssim" not in measured  # of windows of 11 pixels
    with Image.open(run / "reconstructions.png") as picture:
        assert picture.size[0] > picture.size[1] / 2
    metrics = (run / "metrics.csv").read_text()
    for name in ("train/l1", "train/kl", "train/generator_weight", "held_out/psnr", "held_out/loss"):
        assert name in metrics
    assert len([*(run / "samples" / "preview").glob("*.png")]) == 1


def test_interrupted_and_continued_equals_uninterrupted(run, tmp_path, invoke):
    """From before the start of the discriminator, with its optimizer's state and group norms."""
    part = tmp_path / "run"
    options = [*SMALL, *ADVERSARY, f"paths.run_dir={part}"]
    for length in ("16", "48", "64"):
        result = invoke("train.py", *options, f"max_images={length}")
        assert result.code == 0, result.err
    whole, continued = tensors(run), tensors(part)
    assert whole.keys() == continued.keys()
    assert all(torch.equal(value, continued[name]) for name, value in whole.items())
    assert any(name.startswith("objective.adversary.discriminator.") for name in whole)
    steps = {int(value) for name, value in whole.items() if name.endswith(" step")}
    assert steps == {4, 2}  # the discriminator's begin with the first of its batches
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [2e-3, 1e-3]


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(tmp_path, start, invoke, monkeypatch):
    """Killed while the discriminator learns, ended by a signal after that, and continued to the end."""
    drawn, begin, length = random.Random(11), 32, 320
    killed, ended = drawn.randrange(begin, 100), drawn.randrange(200, length - 32)
    alone = ["callbacks.held_out.every_images=null", "callbacks.preview.every_images=null"]
    options = [*SMALL, *ADVERSARY, *alone, f"max_images={length}", "callbacks.checkpoints.every_images=32"]
    part, whole = tmp_path / "part", tmp_path / "whole"
    last = part / "checkpoints" / "last.ckpt"

    def seen():
        return torch.load(last, weights_only=True)["denoiselab"]["images_seen"] if last.exists() else 0

    process = start("train.py", *options, f"paths.run_dir={part}", "max_images=100000")
    while seen() < killed:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    assert process.wait(timeout=120) == -signal.SIGKILL
    assert killed <= seen() < ended

    def forward(self, *arguments):
        if arguments[-1] >= ended:
            monkeypatch.setattr(Adversary, "forward", judged)
            signal.raise_signal(signal.SIGTERM)
        return judged(self, *arguments)

    judged = Adversary.forward
    monkeypatch.setattr(Adversary, "forward", forward)
    assert invoke("train.py", *options, f"paths.run_dir={part}").code == 128 + signal.SIGTERM
    assert ended <= seen() < length
    for path in (part, whole):
        result = invoke("train.py", *options, f"paths.run_dir={path}")
        assert result.code == 0, result.err
    one, two = (tensors(path) for path in (part, whole))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def tensors(path):
    """Weights, averages and the optimizer's state of a run."""
    saved = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    found = {
        **saved["state_dict"],
        **{f"ema {name}": value for name, value in saved["denoiselab"]["ema"]["ema"].items()},
    }
    for number, state in saved["optimizer_states"][0]["state"].items():
        found |= {f"optimizer {number} {key}": value for key, value in state.items()}
    return found


def test_no_average_follows_the_discriminator(run):
    averages = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["denoiselab"]["ema"]["ema"]
    assert averages.keys() == dict(KLCodec(str(run / "first_stage"), (1, 8, 8)).read().named_parameters()).keys()


def test_a_latent_model_is_trained_on_it(run, tmp_path, invoke):
    quick = ["debug=fast_dev_run", "network.channels=8", "network.groups=4", "evaluation.samplers=[ddim]"]
    latent = ["codec=autoencoder_kl", f"codec.path={run / 'first_stage'}", "evaluation.extractor.epochs=1"]
    result = invoke("train.py", *quick, *latent, "logger=none", f"paths.run_dir={tmp_path / 'latent'}")
    assert result.code == 0, result.err


def test_a_codebook_is_trained(tmp_path, invoke):
    codebook = ["autoencoder@network=vq_tiny", "reconstruction@objective=vq", "network.multipliers=[1,2]"]
    learned = ["network.codes=32", "objective.regulariser.learning=averages", "objective.regulariser.restart_below=0.5"]
    path = tmp_path / "run"
    result = invoke("train.py", *SMALL, *codebook, *learned, "max_images=32", f"paths.run_dir={path}")
    assert result.code == 0, result.err
    measured = json.loads((path / "reconstruction.json").read_text())
    assert 0 < measured["usage"] <= 1
    assert 1 <= measured["perplexity"] <= 32
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    assert not torch.equal(checkpoint["state_dict"]["objective.regulariser.counts"], torch.ones(32))
    codebook = checkpoint["state_dict"]["denoiser.quantizer.codebook.weight"]
    assert codebook.abs().max() > 1 / 32  # entries have moved from where they began


def test_samples_are_refused_and_reconstructions_given(run, tmp_path, invoke):
    out = f"out={tmp_path / 'out'}"
    for task in ("generate", "losses"):
        result = invoke("sample.py", f"ckpt={run}", f"task={task}", out)
        assert result.code == 2
        assert (
            "it is a first stage, which draws no samples; see its reconstructions with task=reconstruct" in result.err
        )
    with pytest.raises(ValueError, match="it is a first stage, which draws no samples"):
        denoiselab.load(run)
    assert not (tmp_path / "out").exists()
    result = invoke("sample.py", f"ckpt={run}", "task=reconstruct", "task.num_samples=9", "task.format=npz", out)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert (record["n"], record["weights"]) == (9, "ema")
    data = build("data", "digits").load()[1]
    made = np.load(tmp_path / "out" / "samples.npz")["images"]
    mse = ((made.reshape(9, -1).astype(float) - data.stored(torch.arange(9)).flatten(1).numpy()) ** 2).mean(1)
    assert record["psnr"] == pytest.approx(float((10 * np.log10(255**2 / mse)).mean()), rel=1e-5)
    result = invoke("sample.py", "task=reconstruct", f"ckpt={run}", "task.num_samples=9999")
    assert result.code == 2
    assert "has 346 in task.split=held_out; give at most that" in result.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["optimized_metric=frontier/best"], "optimized_metric=frontier/best: a first stage draws no samples, so its"),
        (["optimized_metric=reconstruction/perceptual"], "the objective has no perceptual distance"),
        (["network.multipliers=[1,2,2,2,2]"], "make a stride of 16, which does not divide images of 8x8"),
        (["adversary@objective.adversary=patch"], "layers=3: images of 8 pixels leave no logits, 24 or more do"),
        (["reconstruction@objective=vq"], "objective.regulariser=CodebookPenalty: it is for a VQModel, not for a Au"),
        (["perceptual@objective.perceptual=lpips"], "objective.perceptual.path"),
        (
            ["perceptual@objective.perceptual=lpips", "objective.perceptual.path=none.pth"],
            "objective.perceptual=LPIPS: it takes images of 31 pixels or more, and samples have 8",
        ),
        (["denoiser=default"], "objective=ReconstructionLoss: it trains a first stage, and this run trains a denoiser"),
        (["conditioner=label"], "conditioner: AutoencoderKL takes no classes; choose another network"),
        (["codec=logit"], "network: a first stage learns from images alone; choose codec=none and conditioner"),
        (["objective=simple"], "objective.level_distribution"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(options, says, invoke):
    result = invoke("train.py", "experiment=autoencoder_kl_digits", "logger=none", *options)
    assert result.code == 2
    assert says in result.last


def test_an_absent_perceptual_network_is_refused(invoke, tmp_path):
    lpips = ["perceptual@objective.perceptual=lpips", f"objective.perceptual.path={tmp_path / 'none.pth'}"]
    result = invoke("train.py", "experiment=autoencoder_kl_fashion_mnist", "data.shape=[1,32,32]", *lpips)
    assert result.code == 2
    assert "there is no such file; get https://download.pytorch.org/models/vgg16-397923af.pth, or" in result.last


def test_a_denoiser_that_is_missing_is_told(invoke):
    result = invoke("train.py", "~denoiser", "~variance", "logger=none")
    assert result.code == 2
    assert (
        "objective=DenoisingObjective: it does not train a first stage, which a run without a denoiser" in result.last
    )


# Parameters in millions of the published ones; None for our own sizes.
RECIPES = {
    "autoencoder_kl_f4": 55.32,
    "autoencoder_kl_f8": 83.65,
    "autoencoder_kl_f16": 69.61,
    "autoencoder_kl_f32": 103.88,
    "vq_f4": 55.32,
    "vq_f8": 67.72,
    "vq_f16": 69.59,
    "autoencoder_kl_emoji": None,
    "autoencoder_kl_fashion_mnist": None,
    "vq_emoji": None,
    "vq_fashion_mnist": None,
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits(name, monkeypatch):
    """Its parts are built on no device, and go together; the weights of others are taken to be there."""
    resolvers.register()
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    monkeypatch.setattr("denoiselab.frozen.perceptual.NetworkDistance._loaded", lambda self: None)
    monkeypatch.setattr("denoiselab.evaluation.features.fidelity.InceptionV3.check_weights", lambda self, layers: "")
    files = [] if RECIPES[name] is None and "_f" not in name[-4:] else ["objective.perceptual.path=none"]
    with composing():
        config = overrides.composed("train", [f"experiment={name}", "data.root=none", "trainer=cpu", *files])
        plain = OmegaConf.to_container(config, resolve=True)
        check_run.check_config(plain, sweeping=False)
    if RECIPES[name] is not None:
        with torch.device("meta"):
            model = built(plain)
        assert sum(p.numel() for p in model.trained.parameters()) / 1e6 == pytest.approx(RECIPES[name], abs=0.011)
