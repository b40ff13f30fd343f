"""Classifiers of noisy images: trained, continued, read again, and guiding the samples of a model."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from configurations import composing
from conftest import QUICK
from omegaconf import OmegaConf

import denoiselab
from denoiselab.app.building.check_run import check_config
from denoiselab.app.config import overrides, resolvers
from denoiselab.files import sha256_of
from denoiselab.networks import ADMClassifier
from denoiselab.schedules import VPLinear

SMALL = [*QUICK, "experiment=classifier_digits", "lr_schedule=warmup", "logger=none", "network.head_channels=8"]


_MADE: list = []  # trained once, inside this process


@pytest.fixture
def classifier(invoke, tmp_path_factory):
    """The directory of a quick classifier's run."""
    if not _MADE:
        path = tmp_path_factory.mktemp("classifier") / "run"
        result = invoke("train.py", *SMALL, f"paths.run_dir={path}")
        assert result.code == 0, result.err
        assert "a classifier draws no samples: evaluation, callbacks.frontier and callbacks.preview do" in result.err
        assert "held-out data at half log-SNR +3: cross-entropy " in result.out
        _MADE.append(path)
    return _MADE[0]


def test_a_run_has_losses_and_accuracies_and_goes_on(classifier, tmp_path, invoke):
    measured = json.loads((classifier / "held_out_loss.json").read_text())
    assert [level["lam"] for level in measured["levels"]] == list(range(-4, 4))
    for key in ("loss", "accuracy"):
        assert measured[key] == pytest.approx(sum(level[key] for level in measured["levels"]) / 8)
    assert not (classifier / "frontier.json").exists()
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    result = invoke("train.py", *SMALL, f"paths.run_dir={run}", "max_images=128")
    assert result.code == 0, result.err
    assert "64 of 128 images seen" in result.err
    with (run / "metrics.csv").open() as file:
        seen = [row["images_seen"] for row in csv.DictReader(file) if row["held_out/accuracy_lam+0"]]
    assert seen == ["64", "128"]


def test_it_is_read_again(classifier, finished):
    x, level = torch.randn(3, 1, 8, 8), VPLinear().level(torch.tensor(0.5))
    read = {weights: denoiselab.load_classifier(classifier, weights) for weights in (None, "raw", "ema")}
    found = {weights: one.logits(x, level) for weights, one in read.items()}
    assert isinstance(read[None].network, ADMClassifier)
    assert found[None].shape == (3, 10)
    assert torch.equal(found[None], found["ema"])
    assert not torch.equal(found["raw"], found["ema"])
    with pytest.raises(ValueError, match=r"classifier\.weights=best: .* allowed: ema, raw"):
        denoiselab.load_classifier(classifier, "best")
    with pytest.raises(ValueError, match=r"classifier\.path=.*: it is a model that draws samples, no classifier of"):
        denoiselab.load_classifier(finished)
    with pytest.raises(ValueError, match=r"ckpt=.*: it is a classifier, which draws no samples; it guides those of"):
        denoiselab.load(classifier)


def guided(invoke, ckpt, out, *options):
    return invoke("sample.py", f"ckpt={ckpt}", f"out={out}", "num_samples=4", "sampler.steps=3", "format=npz", *options)


def test_it_guides_samples(classifier, finished, tmp_path, invoke):
    trained = ["classifier_guidance=trained", f"classifier_guidance.classifier.path={classifier}"]
    result = guided(invoke, finished, tmp_path / "eps", *trained, "classifier_guidance.classifier.weights=raw")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "eps" / "samples.json").read_text())
    assert (record["classifier_evaluations"], record["classifier_weights"], record["classifier_scale"]) == (3, "raw", 1)
    assert record["classifier_sha256"] == sha256_of(classifier / "checkpoints" / "last.ckpt")
    assert "classifier_form" not in record
    result = guided(invoke, finished, tmp_path / "mean", *trained, "classifier_guidance.form=mean", "sampler=ancestral")
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "mean" / "samples.json").read_text())
    assert (record["classifier_weights"], record["classifier_form"]) == ("ema", "mean")
    result = guided(invoke, finished, tmp_path / "none", *trained, "classifier_guidance.form=mean")
    assert (result.code, result.last) == (
        2,
        "sample.py: classifier_guidance.form=mean: DDIM has no mean and variance of its own to move; use an ancestral "
        "sampler (sampler=ancestral or ddpm), or classifier_guidance.form=eps.",
    )
    few = ("task=frontier", "task.samplers=[heun]", "task.nfe=[3]", "task.num_samples=4")
    result = invoke(
        "sample.py", f"ckpt={finished}", *few, *trained, "classifier_guidance.form=mean", f"out={tmp_path}/f"
    )
    assert result.code == 2
    assert "classifier_guidance.form=mean: heun has no mean and variance of its own" in result.last
    result = guided(invoke, classifier, tmp_path / "none")
    assert result.code == 2
    assert (
        "it is a classifier, which draws no samples; it guides those of a model with classifier_guidance=tr"
        in result.err
    )
    assert not (tmp_path / "none").exists()


LIKELIHOODS = """
def brighter(x, level, index):
    return x.flatten(1).mean(1) * (1 + index)

class Brighter:
    def __init__(self, by: float):
        self.by = by

    def __call__(self, x, level, index):
        return self.by * brighter(x, level, index)

def wrong(x):
    return x

def total(x, level, index):
    return x.mean()

def flat(x, level, index):
    return x.flatten(1)

def still(x, level, index):
    return x.detach().flatten(1).mean(1)
"""


def test_a_function_of_the_user_guides_samples(finished, tmp_path, invoke, monkeypatch):
    (tmp_path / "likelihoods_of_mine.py").write_text(LIKELIHOODS)
    monkeypatch.syspath_prepend(str(tmp_path))
    by = ["classifier_guidance=log_likelihood", "classifier_guidance.scale=30"]

    def brightness(name, *options):
        result = guided(invoke, finished, tmp_path / name, *by, *options)
        assert result.code == 0, result.err
        images = np.load(tmp_path / name / "samples.npz")["images"]
        return float(images.mean()), json.loads((tmp_path / name / "samples.json").read_text())

    function = "classifier_guidance.function=likelihoods_of_mine"
    result = guided(invoke, finished, tmp_path / "none", *by, f"{function}.brighter")
    assert result.code == 2
    assert "likelihoods_of_mine is not an allowed package; if you trust its code, set DENOISELAB_ALLOW=" in result.err
    monkeypatch.setenv("DENOISELAB_ALLOW", "likelihoods_of_mine")
    plain, record = brightness("plain", f"{function}:brighter", "classifier_guidance.scale=0")
    once, record = brightness("once", f"{function}.brighter")
    assert record["log_likelihood"] == "likelihoods_of_mine.brighter"
    assert record["classifier_evaluations"] == 3
    node = "{_target_: likelihoods_of_mine.Brighter, by: 3.0}"
    thrice, record = brightness("thrice", f"classifier_guidance.function={node}")
    assert plain < once < thrice
    assert record["log_likelihood"] == {"_target_": "likelihoods_of_mine.Brighter", "by": 3.0}
    result = guided(invoke, finished, tmp_path / "none", *by, f"{function}.wrong")
    assert result.code == 2
    assert (
        "classifier_guidance.function=wrong: must be called as function(x: Tensor, level: Level, index:" in result.err
    )
    rule = "for 2 samples; it must give one number a sample, (B,), differentiable in x."
    for name, gave in (
        ("total", "a tensor of shape []"),
        ("flat", "a tensor of shape [2, 64]"),
        ("still", "numbers that have no gradient"),
    ):
        result = guided(invoke, finished, tmp_path / "none", *by, f"{function}.{name}")
        assert (result.code, result.last) == (
            2,
            f"sample.py: classifier_guidance.function=likelihoods_of_mine.{name}: it gave {gave} {rule}",
        )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["objective=simple"], "objective=DenoisingObjective: it trains a denoiser, and denoiser=classifier is none"),
        (["denoiser=default"], "network=ADMClassifier: must be called as"),
        (
            ["network.num_classes=9"],
            "network=ADMClassifier: a classifier's network maps samples (B, *) to logits (B, 10",
        ),
        (
            ["conditioner.null_class=true"],
            "conditioner: a classifier learns the class of each sample; choose conditioner=label",
        ),
        (["optimized_metric=frontier/best"], "optimized_metric=frontier/best: a classifier draws no samples, so its"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(options, says, invoke):
    result = invoke("train.py", "experiment=classifier_digits", "logger=none", *options)
    assert result.code == 2
    assert says in result.last


@pytest.mark.parametrize("name", [f"imagenet{size}" for size in (64, 128, 256)] + ["fashion_mnist"])
def test_every_recipe_fits(name, monkeypatch):
    """Its parts are built on no device, and go together."""
    resolvers.register()
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    with composing():
        config = overrides.composed("train", [f"experiment=classifier_{name}", "data.root=none", "trainer=cpu"])
        check_config(OmegaConf.to_container(config, resolve=True), sweeping=False)
