"""torchrun starts all processes of a training again when one is lost, and the run goes on to the same end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import QUICK, ROOT

pytestmark = pytest.mark.benchmark


def test_torchrun_restarts_a_run_which_goes_on_to_the_same_end(tmp_path):
    def start(path):
        words = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts",
            "2", str(ROOT / "train.py"), *QUICK, "max_images=3200", "batch_size=32", "network.dropout=0.1",
            "logger=none", "callbacks.checkpoints.every_images=160", "callbacks.frontier.every_images=null",
            "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
            f"paths.log_dir={tmp_path}", f"paths.run_dir={path}",
        ]  # fmt: skip
        env = {**os.environ, "OMP_NUM_THREADS": "1", "DENOISELAB_RUN_ID": path.name}
        return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def weights(path):
        checkpoint = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["denoiselab"]["images_seen"] == 3200
        return {**checkpoint["state_dict"], **checkpoint["denoiselab"]["ema"]["ema"]}

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = start(straight)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    process = start(broken)
    while not (broken / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    ranks = [one for one in psutil.Process(process.pid).children() if "train.py" in " ".join(one.cmdline())]
    ranks[1].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    assert " of 3,200 images seen" in err
    want, got = weights(straight), weights(broken)
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())
