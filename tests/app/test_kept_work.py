"""Work that is kept: checkpoints of a run that diverges, damaged ones, another run's weights, edited configurations."""

import json
import math
import shutil
import signal

import pytest
import torch
from conftest import QUICK
from omegaconf import OmegaConf

from denoiselab.app.runs.processes import DirectoryCheck
from denoiselab.training.callbacks_evaluation import FrontierScores
from denoiselab.training.checkpoint_files import read_checkpoint
from denoiselab.training.ema import EMA
from denoiselab.training.module import DiffusionModule

LAST = "checkpoints/last.ckpt"


def extended(path, *more):
    """Options that continue the quick run in `path` by three batches."""
    return (*QUICK, f"paths.log_dir={path.parent}", f"paths.run_dir={path}", "max_images=160", *more)


def spoil_weights(module):
    next(module.denoiser.parameters()).data.view(-1)[-1] = torch.nan


def spoil_average(module):
    next(iter(module.ema.averages["ema"].values())).view(-1)[0] = torch.inf


def spoil_moments(module):
    next(iter(module.optimizers().optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = torch.inf


def spoil_best(module):
    spoil_average(module)
    for callback in module.trainer.callbacks:
        if isinstance(callback, FrontierScores):
            callback._best = math.inf  # so that the next score is the best one


def ask_to_stop(module):
    spoil_weights(module)
    signal.raise_signal(signal.SIGTERM)


NEVER = "callbacks.checkpoints.every_images=1000000"


@pytest.mark.parametrize(
    ("spoil", "path_of_saving", "named", "seen"),
    [
        (spoil_weights, ["callbacks.checkpoints.every_images=96"], "state_dict.denoiser.", 96),
        (spoil_moments, ["callbacks.checkpoints.every_images=96"], "optimizer_states.0.state.0.exp_avg_sq", 96),
        (spoil_average, [NEVER], "ema.ema.network.", 160),
        (spoil_average, [NEVER, "callbacks.checkpoints.keep_every_images=96"], "ema.ema.network.", 96),
        (spoil_best, [NEVER, "callbacks.frontier.every_images=96", "evaluation.weights=raw"], "ema.ema.network.", 96),
        (ask_to_stop, [NEVER], "state_dict.denoiser.", 96),
    ],
    ids=["interval, weights", "interval, optimizer", "end, average", "kept for good", "best", "stopped"],
)
def test_a_run_that_diverges_keeps_its_checkpoint(
    spoil, path_of_saving, named, seen, finished, tmp_path, invoke, monkeypatch
):
    copy = shutil.copytree(finished, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (copy / "checkpoints").iterdir()}
    update = EMA.update
    module = []
    fit_start = DiffusionModule.on_fit_start
    monkeypatch.setattr(DiffusionModule, "on_fit_start", lambda self: (module.append(self), fit_start(self)))

    def spoilt(self, denoiser, images_seen, images):
        update(self, denoiser, images_seen, images)
        if images_seen == 96:
            spoil(module[0])

    monkeypatch.setattr(EMA, "update", spoilt)
    result = invoke("train.py", *extended(copy, "callbacks.loss_log.every_images=1000000", *path_of_saving))
    assert result.code == 1
    assert named in result.last
    assert f"is not finite at {seen} images seen" in result.last
    assert f"init_from={copy / LAST}" in result.last
    assert "64 images seen, is kept" in result.last
    assert {path.name: path.read_bytes() for path in (copy / "checkpoints").iterdir()} == before


def test_a_new_run_that_diverges_says_that_there_is_no_checkpoint(tmp_path, invoke):
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}", "optimizer.lr=1e20",
        "lr_schedule.images=0", "max_images=960", "callbacks.checkpoints.every_images=1000000",
        "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null",
    )  # fmt: skip
    assert result.code == 1
    assert "there is no checkpoint before that, so start anew with a lower optimizer.lr" in result.last
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize(("weights", "optimizer"), [("raw", True), ("ema", False)])
def test_a_run_starts_from_the_weights_of_another(weights, optimizer, finished, tmp_path, invoke):
    """At a learning rate of 0 they are still there at the end."""
    path = tmp_path / "run"
    source = shutil.copytree(finished, tmp_path / "source")
    asked = [f"init_from={source}", f"init_weights={weights}", f"init_optimizer={optimizer}", "optimizer.lr=0.0"]
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", *asked, "max_images=96",
        "schedule=vp_cosine", "optimizer.weight_decay=0.0",
    )  # fmt: skip
    assert result.code == 0, result.err
    start, end = (read_checkpoint(run / LAST) for run in (finished, path))
    want = {k.removeprefix("denoiser."): v for k, v in start["state_dict"].items()}
    if weights == "ema":
        want |= start["denoiselab"]["ema"]["ema"]
    assert all(torch.equal(end["state_dict"][f"denoiser.{name}"], tensor) for name, tensor in want.items())
    assert end["denoiselab"]["images_seen"] == 96
    assert end["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0
    steps = [float(run["optimizer_states"][0]["state"][0]["step"]) for run in (start, end)]
    assert steps == [2, 5 if optimizer else 3]
    initial = json.loads((path / "run.json").read_text())["initial"]
    assert initial["weights"] == weights
    assert initial["optimizer"] is optimizer
    assert initial["images_seen"] == 64
    assert len(initial["checkpoint_sha256"]) == 64
    config = end["denoiselab"]["config"]
    assert (config["init_from"], config["init_weights"], config["init_optimizer"]) == (
        str(source), weights, optimizer,
    )  # fmt: skip
    assert f"{weights} weights of 64 images seen, {'with' if optimizer else 'without'} its" in result.err
    assert "was trained with another schedule." in result.err
    # It continues as any run does, though what it started from is gone.
    shutil.rmtree(source)
    (path / "config.yaml").unlink()
    again = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", *asked, "max_images=96",
                   "schedule=vp_cosine", "optimizer.weight_decay=0.0")  # fmt: skip
    assert again.code == 0, again.err
    assert "config.yaml is missing; the configuration in last.ckpt counts." in again.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["network.channels=16"], ["belongs to another network", "'network.", "has shape [32, 8]", "[64, 16]"]),
        (["init_from=nowhere"], ["init_from=nowhere: no such run directory or checkpoint file."]),
        (["init_from=null", "init_weights=ema"], ["init_weights=ema: has no effect without init_from=<run or file>."]),
        (["init_from=null", "init_optimizer=true"], ["init_optimizer=true: has no effect without init_from="]),
        (["init_weights=emma"], ["init_weights=emma", "did you mean 'ema'", "ema, raw"]),
        (
            ["init_optimizer=true", "optimizer._target_=torch.optim.Adam"],
            ["init_optimizer=true", "of torch.optim.AdamW", "is torch.optim.Adam;"],
        ),
    ],
)
def test_what_a_run_cannot_start_from_is_refused(options, says, finished, tmp_path, invoke):
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}",
                    f"init_from={finished / LAST}", *options)  # fmt: skip
    assert result.code == 2
    assert all(text in result.last for text in says), result.last
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_gives_way_to_the_one_before(finished, tmp_path, invoke):
    first = shutil.copytree(finished, tmp_path / "first")
    assert invoke("train.py", *extended(first, "callbacks.checkpoints.every_images=32")).code == 0
    assert sorted(path.name for path in (first / "checkpoints").glob("last*")) == ["last.1.ckpt", "last.ckpt"]
    want = read_checkpoint(first / LAST)
    damaged = shutil.copytree(first, tmp_path / "damaged")
    whole = (damaged / LAST).read_bytes()
    (damaged / LAST).write_bytes(whole[:-1000])
    sampled = invoke("sample.py", f"ckpt={damaged}", "num_samples=2", "sampler.steps=2")
    assert sampled.code == 0, sampled.err
    assert f"{damaged / LAST} is damaged; last.1.ckpt is used" in sampled.err
    refused = invoke("sample.py", f"ckpt={damaged / LAST}", "num_samples=2", "sampler.steps=2", f"out={tmp_path}/x")
    assert refused.code == 2
    assert "damaged or truncated, or not a checkpoint; beside it: last.1.ckpt, best.ckpt" in refused.last
    result = invoke("train.py", *extended(damaged, "callbacks.checkpoints.every_images=32"))
    assert result.code == 0, result.err
    assert "It is now last.ckpt.damaged; continuing from last.1.ckpt, of 128 images seen." in result.err
    assert (damaged / f"{LAST}.damaged").read_bytes() == whole[:-1000]
    again = read_checkpoint(damaged / LAST)
    assert again["denoiselab"]["images_seen"] == 160
    assert all(torch.equal(again["state_dict"][name], tensor) for name, tensor in want["state_dict"].items())


def test_an_edited_configuration_does_not_change_a_run(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    config = OmegaConf.load(copy / "config.yaml")
    config.seed, config.optimizer.lr = 5, 0.1
    OmegaConf.save(config, copy / "config.yaml")
    refused = invoke("train.py", *extended(copy, "seed=5", "optimizer.lr=0.1"))
    assert refused.code == 2
    assert "has seed=0" in refused.last
    result = invoke("train.py", *extended(copy))
    assert result.code == 0, result.err
    (line,) = [line for line in result.err.splitlines() if "config.yaml" in line]
    assert "says seed=5 instead of 0, optimizer.lr=0.1 instead of 0.002; the configuration in last.ckpt counts." in line
    assert OmegaConf.load(copy / "config.yaml").seed == 0
    (copy / "config.yaml").write_text("{[")
    result = invoke("train.py", *extended(copy))
    assert result.code == 0, result.err
    assert "config.yaml is damaged; the configuration in last.ckpt counts." in result.err
    (copy / "run.json").write_text("{}")
    result = invoke("train.py", *extended(copy))
    assert result.code == 2
    assert "run.json: damaged; delete it to continue" in result.last


MALFORMED = [
    ("loops", {}), ("callbacks", {"LossLog": {"sum": "x", "batches": 1}}), ("optimizer_states", [{}]), ("epoch", "x"),
    ("pytorch-lightning_version", "new"),
]  # fmt: skip


def test_a_malformed_state_of_a_training_is_one_sentence(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run")
    for path in (copy / "checkpoints").iterdir():
        if path.name != "last.ckpt":
            path.unlink()
    whole = torch.load(finished / LAST, weights_only=True)
    state = whole["optimizer_states"][0]
    short = {**state["state"], 0: {**state["state"][0], "exp_avg": torch.zeros(7)}}
    for key, wrong in (*MALFORMED, ("optimizer_states", [{**state, "state": short}])):
        torch.save({**whole, key: wrong}, copy / LAST)
        result = invoke("train.py", *extended(copy))
        assert result.code == 2, (key, wrong, result.err)
        assert str(copy / LAST) in result.last


def test_a_failure_after_the_last_step_loses_no_training(tmp_path, invoke, monkeypatch):
    def fail(*_):
        raise RuntimeError("monitored metric not found")

    monkeypatch.setattr(DirectoryCheck, "on_train_epoch_end", fail)
    result = invoke("train.py", *QUICK, f"paths.run_dir={tmp_path / 'run'}", NEVER)
    assert result.code == 1
    assert "monitored metric not found" in result.err
    assert read_checkpoint(tmp_path / "run" / LAST)["denoiselab"]["images_seen"] == 64
