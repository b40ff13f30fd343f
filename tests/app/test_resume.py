"""Interrupted and continued equals uninterrupted, bit for bit."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from conftest import QUICK, command
from PIL import Image

LENGTH = 1600
BUDGET = [
    *QUICK,
    f"max_images={LENGTH}",
    "batch_size=32",
    "network.dropout=0.1",
    "callbacks.checkpoints.every_images=160",
    "callbacks.loss_log.every_images=200",
    "ema=power",
    "ema.snapshots.every_images=100",
    "ema.snapshots.keep=8",
]

pytestmark = pytest.mark.slow


def outcome(path):
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    with (path / "metrics.csv").open() as file:
        losses = [
            (row["images_seen"], row["train/loss"], row["train/lr"])
            for row in csv.DictReader(file)
            if row["train/loss"]
        ]
    tensors = {**checkpoint["state_dict"], **checkpoint["denoiselab"]["ema"]["ema"]}
    snapshots = sorted((path / "checkpoints" / "snapshots").glob("*.pt"))
    for file in snapshots:
        for profile, average in torch.load(file, weights_only=True)["averages"].items():
            tensors |= {f"{file.name} {profile} {name}": tensor for name, tensor in average.items()}
    with (path / "frontier.csv").open() as file:
        scores = [row["score"] for row in csv.DictReader(file)]
    return checkpoint["denoiselab"]["images_seen"], losses, tensors, scores


def wandb_exit_code(path):
    """What W&B was told, read back from its offline file."""
    (file,) = path.glob("wandb/offline-run-*/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(file)]
    done = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)["exit_code"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    logs = tmp_path_factory.mktemp("straight")
    arguments = [*BUDGET, f"paths.log_dir={logs}", f"paths.run_dir={logs / 'run'}"]
    subprocess.run(command("train.py", *arguments), check=True, capture_output=True, timeout=300)
    return outcome(logs / "run")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_interrupted_and_continued_equals_uninterrupted(number, code, uninterrupted, tmp_path, start, invoke):
    path = tmp_path / "lr=1e-3, Dürer's [a]"  # a place that neither a shell nor Hydra's grammar takes as it is
    arguments = [*BUDGET, f"paths.log_dir={tmp_path}"]
    process = start("train.py", *arguments, "logger=wandb", f"paths.run_dir={path}")
    while not (path / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    seen = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["denoiselab"]["images_seen"]
    assert 160 <= seen < LENGTH
    words = ["train.py", *arguments, f"paths.run_dir={path}"]
    if number != signal.SIGKILL:
        words = shlex.split(re.search("to continue: python .*/(train.py .*batch_size=32 .*)", err)[1])
        assert "Traceback" not in err
        assert wandb_exit_code(path) == code
    result = invoke(*words)
    assert result.code == 0, result.err
    assert f"{seen:,} of {LENGTH:,} images seen" in result.err
    images, losses, tensors, scores = outcome(path)
    assert images == uninterrupted[0] == LENGTH
    assert sum(name.startswith("000000001600.pt narrow") for name in tensors) > 10
    assert losses == uninterrupted[1]
    assert tensors.keys() == uninterrupted[2].keys()
    assert all(torch.equal(tensor, uninterrupted[2][name]) for name, tensor in tensors.items())
    assert scores == uninterrupted[3]


def test_two_processes_train_the_same_model(tmp_path, run, invoke):
    """Ranks share each batch, and noise and dropout belong to the image: worlds differ by rounding alone."""
    path = tmp_path / "run"
    shared = [*BUDGET, "max_images=320", "callbacks.preview.every_images=320", f"paths.log_dir={tmp_path}"]
    two = run(
        "train.py", *shared, f"paths.run_dir={path}", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer.accumulate_grad_batches=2",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert two.code == 0, two.err
    one = invoke("train.py", *shared, f"paths.run_dir={tmp_path / 'one'}")
    assert one.code == 0, one.err
    a, b = outcome(path), outcome(tmp_path / "one")
    assert a[0] == b[0]
    for (images, loss, lr), (images_one, loss_one, lr_one) in zip(a[1], b[1], strict=True):
        assert (images, lr) == (images_one, lr_one)
        assert float(loss) == pytest.approx(float(loss_one), rel=1e-6)
    assert all(torch.allclose(tensor, b[2][name], rtol=0, atol=1e-4) for name, tensor in a[2].items())
    assert [float(s) for s in a[3]] == pytest.approx([float(s) for s in b[3]], rel=1e-5)
    picture = "samples/preview/images_000000000320.png"  # of which each rank has drawn a share
    assert np.allclose(
        *(np.asarray(Image.open(place / picture), dtype=int) for place in (path, tmp_path / "one")), rtol=0, atol=1
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_frontier_that_was_interrupted_keeps_its_cells(number, tmp_path, invoke):
    """The signal comes to this process, once two cells are written: the third is of 1,000 calls."""
    path = tmp_path / "run"
    arguments = [
        *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", "evaluation.num_samples=256",
        "evaluation.nfe=[2,3,1000]",
    ]  # fmt: skip

    def cells():
        return json.loads((path / "frontier.json").read_text()) if (path / "frontier.json").exists() else []

    ended = threading.Event()

    def interrupt():
        while len(cells()) < 2:
            if ended.wait(0.02):
                return
        signal.raise_signal(number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        stopped = invoke("train.py", *arguments)
    finally:
        ended.set()
        thread.join()
    assert stopped.code == 128 + number, stopped.err
    before = cells()
    result = invoke("train.py", *arguments[:-1], "evaluation.nfe=[2,3,4]")
    assert result.code == 0, result.err
    after = cells()
    assert after[:2] == before
    assert [record["nfe"] for record in after] == [2, 3, 4]
    assert all(record["n"] == 256 for record in after)
