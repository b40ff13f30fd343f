"""The same run on any number of processes, and one that is killed at any moment: the same end."""

import csv
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from conftest import QUICK, ROOT

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
    assert off < 1e-6
    assert weights < 1e-4
    assert cells < 1e-5


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
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


def moments(seed, number):
    """Rank, place, count of the place's calls, and signal; `failing.py` explains the places."""
    random_ = random.Random(seed)
    often = {"training": 12, "writing": 2, "sampling": 6, "saving": 2, "scoring": 4}
    for place in (list(often) * number)[:number]:
        rank = 0 if place == "writing" else random_.randrange(2)  # which rank 0 alone does
        how = random_.choice(["kill", "kill", "term", "usr1", "usr2"])
        yield f"{rank} {place} {random_.randrange(often[place])} {how}"


def killed(tmp_path, number, want=None):
    """A run of two processes that is ended at so many moments and started again has the end of one that is not."""

    def done(path, env=ONE_THREAD, program=ROOT / "train.py"):
        words = [*BUDGET, *world(2, 1), f"paths.log_dir={tmp_path}", f"paths.run_dir={path}"]
        run = subprocess.run(
            [sys.executable, str(program), *words], env=env, capture_output=True, text=True, timeout=300
        )
        return run.returncode, run.stderr

    if want is None:
        assert done(tmp_path / "straight")[0] == 0
        want = outcome(tmp_path / "straight")
    path, hits = tmp_path / "killed-0", 0
    for moment in moments(seed=20, number=number):
        code, err = done(path, {**ONE_THREAD, "FAILING": moment}, ROOT / "tests" / "scale" / "failing.py")
        print(moment, code)
        assert code in ({0, 1, -signal.SIGKILL} if moment.endswith("kill") else {0, 143}), err
        hits += code != 0
        if code == 0:  # the moment came after the end
            compare(want, outcome(path))
            path = path.with_name(f"killed-{int(path.name.partition('-')[2]) + 1}")
    code, err = done(path)
    assert code == 0, err
    assert hits >= number / 2
    compare(want, outcome(path))


@pytest.mark.slow
def test_a_run_that_is_killed_at_three_moments_has_the_end_of_one_process(tmp_path, invoke):
    alone = invoke("train.py", *BUDGET, *world(1, 1), f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'one'}")
    assert alone.code == 0, alone.err
    killed(tmp_path, 3, outcome(tmp_path / "one"))


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_at_twenty_moments_has_the_same_end(tmp_path):
    killed(tmp_path, 20)
