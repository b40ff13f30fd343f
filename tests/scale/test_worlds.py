"""The same run on any number of processes, and one that is killed at any moment: the same end."""

import csv
import os
import random
import signal
import time

import psutil
import pytest
import torch
from conftest import QUICK

pytestmark = pytest.mark.benchmark

LENGTH = 960
BUDGET = [
    *QUICK, f"max_images={LENGTH}", "batch_size=32", "network.dropout=0.1", "callbacks.checkpoints.every_images=160",
    "callbacks.loss_log.every_images=160", "callbacks.frontier.every_images=320", "logger=none",
    "evaluation.nfe=[2,3,4,5]", "evaluation.num_samples=64",
]  # fmt: skip
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def world(devices, accumulate):
    more = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}"] if devices > 1 else ["trainer=cpu"]
    return [*more, f"trainer.accumulate_grad_batches={accumulate}"]


def outcome(path):
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    with (path / "metrics.csv").open() as file:
        losses = [(row["images_seen"], float(row["train/loss"])) for row in csv.DictReader(file) if row["train/loss"]]
    with (path / "frontier.csv").open() as file:
        scores = {
            (row["sampler"], row["nfe"]): float(row["score"])
            for row in csv.DictReader(file)
            if row["images_seen"] == str(LENGTH)
        }
    tensors = {**checkpoint["state_dict"], **checkpoint["denoiselab"]["ema"]["ema"]}
    assert checkpoint["denoiselab"]["images_seen"] == LENGTH
    return dict(losses), tensors, scores


def compare(one, other):
    """Losses, weights and scores; prints the largest differences."""
    losses, tensors, scores = one
    assert losses.keys() == other[0].keys()
    assert scores.keys() == other[2].keys()
    off = max(abs(other[0][seen] / loss - 1) for seen, loss in losses.items())
    weights = max((tensor - other[1][name]).abs().max().item() for name, tensor in tensors.items())
    cells = max(abs(other[2][cell] / score - 1) for cell, score in scores.items())
    print(f"losses {off:.1e} relative, weights {weights:.1e}, scores {cells:.1e} relative")
    assert off < 1e-4
    assert weights < 1e-3
    assert cells < 1e-2


def test_every_world_trains_the_same_model_and_takes_over_from_another(tmp_path, run):
    def to_the_end(name, devices, accumulate, *more):
        result = run(
            "train.py", *BUDGET, f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / name}",
            *world(devices, accumulate), *more, env=ONE_THREAD,
        )  # fmt: skip
        assert result.code == 0, result.err

    to_the_end("1x1", 1, 1)
    want = outcome(tmp_path / "1x1")
    for devices, accumulate in ((1, 2), (2, 1), (2, 2)):
        to_the_end(f"{devices}x{accumulate}", devices, accumulate)
        compare(want, outcome(tmp_path / f"{devices}x{accumulate}"))
    for images, devices, accumulate in ((320, 2, 1), (640, 1, 2), (960, 2, 1)):
        to_the_end("handed", devices, accumulate, f"max_images={images}")
    compare(want, outcome(tmp_path / "handed"))


def test_a_run_that_is_killed_at_any_moment_has_the_same_end(tmp_path, start, run):
    """A signal to a random rank at 20 random moments of training, saving, sampling and scoring, then the rest."""
    path, random_ = tmp_path / "killed", random.Random(0)
    common = [*BUDGET, *world(2, 1), f"paths.log_dir={tmp_path}"]
    straight = run("train.py", *common, f"paths.run_dir={tmp_path / 'straight'}", env=ONE_THREAD)
    assert straight.code == 0, straight.err
    kills = 0
    while kills < 20:
        process = start("train.py", *common, f"paths.run_dir={path}", env=ONE_THREAD)
        moment = random_.uniform(4, 20)
        end = time.monotonic() + moment
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is not None:  # it had ended, so it starts anew
            process.communicate()
            compare(outcome(tmp_path / "straight"), outcome(path))
            path = tmp_path / f"killed-{kills}"
            kills += 1
            continue
        ranks = [process.pid, *(one.pid for one in psutil.Process(process.pid).children())]
        number = random_.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
        os.kill(random_.choice(ranks), number)
        _, err = process.communicate(timeout=90)
        if number != signal.SIGKILL:
            assert process.returncode in (0, 143), err
        kills += 1
    result = run("train.py", *common, f"paths.run_dir={path}", env=ONE_THREAD)
    assert result.code == 0, result.err
    compare(outcome(tmp_path / "straight"), outcome(path))
