"""Runs that learn text from nothing, through the command line."""

import re
import shutil

import pytest
import torch
from frozen_models import NAMES
from omegaconf import OmegaConf

import denoiselab
from denoiselab.frozen import BytePairs
from denoiselab.training.checkpoint_files import read_checkpoint

RUN = [
    *("data._target_=frozen_models.CaptionedDigits", "network=dit_tiny", "network.depth=1", "network.width=16"),
    *("network.heads=2", "conditioner=text_transformer", "conditioner.encoder.width=8", "conditioner.encoder.heads=2"),
    *(
        "conditioner.encoder.depth=1",
        "conditioner.encoder.head_features=4",
        "lr_schedule.images=0",
        "conditioner.encoder.length=6",
        "conditioner.encoder.tokenizer.vocabulary=260",
    ),
    *("batch_size=16", "optimizer.lr=0.01", "evaluation.samplers=[ddim]", "evaluation.nfe=[2]", "logger=none"),
    *("evaluation.num_samples=4", "evaluation.extractor.epochs=1", "callbacks.frontier.every_images=null"),
    *("callbacks.preview.every_images=null", "callbacks.held_out.every_images=null", "ema.profiles.ema.images=100"),
]


@pytest.fixture
def train(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENOISELAB_ALLOW", "frozen_models.")

    def call(run, *arguments):
        return invoke("train.py", *RUN, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / run}", *arguments)

    return call


@pytest.mark.slow
def test_a_run_keeps_its_tokenizer_and_samples_with_averaged_text_weights(train, invoke, tmp_path):
    result = train("whole", "max_images=96")
    assert result.code == 0, result.err
    assert "conditioner.encoder.length=6: 293 of 1,451 captions are longer" in result.err
    whole = read_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    node = OmegaConf.load(tmp_path / "whole" / "config.yaml").conditioner.encoder.tokenizer
    kept = BytePairs(260, str(tmp_path / "whole" / "tokenizer.json"))
    assert node.sha256 == kept.sha256 == whole["denoiselab"]["config"]["conditioner"]["encoder"]["tokenizer"]["sha256"]
    assert len({tuple(kept(name)) for name in NAMES}) == 10
    own, average = whole["state_dict"], whole["denoiselab"]["ema"]["ema"]
    moved = (
        own["denoiser.conditioner.transformer.embedding.weight"] - average["conditioner.transformer.embedding.weight"]
    )
    assert bool(moved.abs().max() > 1e-4)  # it was trained, and averaged

    assert train("parts", "max_images=48").code == 0
    assert train("parts", "max_images=96").code == 0
    parts = read_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt")
    for name, tensor in own.items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    for name, tensor in average.items():
        assert torch.equal(tensor, parts["denoiselab"]["ema"]["ema"][name]), name

    drawn = ["num_samples=2", "sampler.steps=2", "format=npz", "guidance=2", "conditioner.prompts=[seven,a dog]"]
    result = invoke("sample.py", f"ckpt={tmp_path / 'whole'}", *drawn, "out=samples")
    assert result.code == 0, result.err
    result = invoke("sample.py", f"ckpt={tmp_path / 'whole'}", *drawn, "guider=auto", "guider.weights=raw", "out=auto")
    assert result.code == 2
    assert "its text encoder was trained with it" in result.last
    for weights, wanted in (("ema", average), ("raw", {k.removeprefix("denoiser."): v for k, v in own.items()})):
        model = denoiselab.load(tmp_path / "whole", weights)
        name = "conditioner.transformer.embedding.weight"
        assert torch.equal(model.conditioner.module.transformer.embedding.weight, wanted[name])

    shutil.copytree(tmp_path / "parts", tmp_path / "lost")
    (tmp_path / "lost" / "tokenizer.json").unlink()
    result = train("lost", "max_images=112")
    assert result.code == 2
    assert "tokenizer.json: is missing, and the run's weights are of its tokens" in result.last
    result = invoke("sample.py", f"ckpt={tmp_path / 'lost'}", *drawn, "out=lost_samples")
    assert result.code == 2
    assert "conditioner.encoder.tokenizer.path=tokenizer.json: there is no such file" in result.last
    small = train(
        "other", "max_images=16", f"init_from={tmp_path / 'whole'}", "conditioner.encoder.tokenizer.vocabulary=259"
    )
    assert small.code == 2
    assert f"give conditioner.encoder.tokenizer.path={tmp_path / 'whole' / 'tokenizer.json'}" in small.last


def test_empty_captions_are_refused(train):
    result = train("empty", "max_images=16", "data._target_=frozen_models.HalfCaptionedDigits")
    assert result.code == 2
    assert "train.py: data: " in result.last
    assert "of 1,451 captions are empty, the first of image 0; write them" in result.last
    result = train("empty", "max_images=16", "data._target_=frozen_models.HeldOutHalfCaptionedDigits")
    assert result.code == 2
    assert re.search(r"train.py: held-out data: \d+ of \d+ captions are empty", result.last)
