"""Two nodes, as two network namespaces, with torchrun on each: training, loss of a node, the same end."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import QUICK, ROOT

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"
)

ADDRESSES = ("10.78.0.1", "10.78.0.2")
LENGTH = 960
TRAINING = [*QUICK, "batch_size=32", "network.dropout=0.1", "logger=none"]
LOOKS = [
    f"max_images={LENGTH}", "callbacks.checkpoints.every_images=160", "callbacks.frontier.every_images=320",
    "callbacks.preview.every_images=320",
]  # fmt: skip


@pytest.fixture(scope="module")
def nodes():
    """The names of two namespaces that are connected."""
    names = [f"dl{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = ["ip", "link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0"]
        subprocess.run([*ends, "netns", names[1]], check=True)
        for name, address in zip(names, ADDRESSES, strict=True):
            for words in (f"addr add {address}/24 dev veth0", "link set lo up", "link set veth0 up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def launch(nodes, tmp_path):
    """Start torchrun on both nodes; what still runs at the end is killed."""
    started = []

    def both(path, *arguments, port=29500):
        env = {
            **os.environ, "GLOO_SOCKET_IFNAME": "veth0", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT / "src"),
        }  # fmt: skip
        found = []
        for number, (name, address) in enumerate(zip(nodes, ADDRESSES, strict=True)):
            log = (tmp_path / f"{name}-{len(started)}.log").open("w+")
            words = [
                "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
                "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{port}",
                "--rdzv-id", "two", "--local-addr", address, "--rdzv-conf", f"is_host={int(number == 0)}",
                str(ROOT / "train.py"), *TRAINING, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", "trainer=ddp",
                "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", *arguments,
            ]  # fmt: skip
            process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            found.append((process, log))
        started.extend(found)
        return found

    yield both
    for process, log in started:
        tell(process, signal.SIGKILL)
        process.wait()
        log.close()


def tell(process, number):
    """Send a signal to torchrun and to what it has started, whose sessions are their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)


def text(log):
    log.seek(0)
    return log.read().replace("\r", "\n")


def finished(pair, patience=240):
    codes = [process.wait(timeout=patience) for process, _ in pair]
    assert codes == [0, 0], [text(log)[-3000:] for _, log in pair]


def outcome(path):
    checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    return {**checkpoint["state_dict"], **checkpoint["denoiselab"]["ema"]["ema"]}


def until_saved(path, pair):
    end = time.monotonic() + 240
    while not (path / "checkpoints" / "last.ckpt").exists():
        assert all(process.poll() is None for process, _ in pair), [text(log)[-3000:] for _, log in pair]
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_two_nodes_train_the_model_of_one(launch, tmp_path, invoke):
    """And score it: each node its share of the samples, and the first one writes."""
    two, one, few = tmp_path / "two", tmp_path / "one", ["max_images=96", "callbacks.loss_log.every_images=32"]
    pair = launch(two, *few, port=29504)
    alone = invoke("train.py", *TRAINING, *few, f"paths.log_dir={tmp_path}", f"paths.run_dir={one}")
    assert alone.code == 0, alone.err
    finished(pair)
    want, got = outcome(one), outcome(two)
    assert want.keys() == got.keys()
    assert all(torch.allclose(tensor, got[name], rtol=0, atol=1e-4) for name, tensor in want.items())
    losses, scores = table(one, "metrics.csv", "train/loss"), table(one, "frontier.csv", "score")
    assert (len(losses), len(scores) > 0) == (3, True)
    assert table(two, "metrics.csv", "train/loss") == pytest.approx(losses, rel=1e-6)
    assert table(two, "frontier.csv", "score") == pytest.approx(scores, rel=1e-5)
    assert {*table(two, "frontier.csv", "devices")} == {2}


def table(path, name, column):
    with (path / name).open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.mark.benchmark
def test_a_lost_node_is_named_and_the_run_goes_on_to_the_same_end(launch, tmp_path):
    straight, broken, hung = (tmp_path / name for name in ("straight", "broken", "hung"))
    finished(launch(straight, *LOOKS))
    assert (straight / "frontier.csv").exists()

    pair = launch(broken, *LOOKS, port=29501)
    until_saved(broken, pair)
    (ours, log), (lost, _) = pair
    tell(lost, signal.SIGKILL)
    start = time.monotonic()
    assert ours.wait(timeout=60) == 1
    print(f"node A ended {time.monotonic() - start:.1f} s after node B was killed")
    assert "train.py: rank 1 of 2 does not answer: ended, stopped or cut off; the last checkpoint is kept" in text(log)
    finished(launch(broken, *LOOKS, port=29502))
    want, got = outcome(straight), outcome(broken)
    assert want.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())
    assert (straight / "frontier.csv").read_text().count("\n") == (broken / "frontier.csv").read_text().count("\n")

    pair = launch(hung, *LOOKS, "max_images=100000", "trainer.strategy.timeout=15", port=29503)
    until_saved(hung, pair)
    (ours, log), (stopped, _) = pair
    tell(stopped, signal.SIGSTOP)
    start = time.monotonic()
    ours.wait(timeout=75)
    print(f"node A ended {time.monotonic() - start:.1f} s after node B was stopped, with a timeout of 15 s")
    assert "train.py: rank 1 of 2 does not answer" in text(log)
