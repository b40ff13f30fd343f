"""What ends a run from outside is told in a sentence that says what can be done."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import QUICK, ROOT

from denoiselab.app.commands import cli
from denoiselab.app.runs import failures, processes
from denoiselab.errors import Failure
from denoiselab.training.loggers import MetricsCSV
from denoiselab.training.module import DiffusionModule


def full(*_, **__):
    return torch.empty(2**50)


def test_training_that_needs_too_much_memory_says_what_needs_less(tmp_path, invoke, monkeypatch):
    arguments = [*QUICK, f"paths.log_dir={tmp_path}"]
    monkeypatch.setattr(DiffusionModule, "training_step", full)
    result = invoke("train.py", *arguments)
    assert result.code == 1
    assert result.last.startswith("train.py: out of memory (")
    options = re.findall(r"[\w.]+=[\w-]+", result.last.partition("to need less:")[2])
    assert [option.partition("=")[0] for option in options] == [
        "trainer.accumulate_grad_batches", "network.checkpoint_levels", "trainer.precision", "batch_size",
    ]  # fmt: skip
    monkeypatch.setattr(cli, "_run_jobs", lambda *_: None)
    for option in options:
        assert invoke("train.py", *arguments, option).code == 0


def test_sampling_that_needs_too_much_memory_says_what_needs_less(finished, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(torch.nn.Conv2d, "forward", full)
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", f"out={tmp_path / 'out'}")
    assert result.code == 1
    assert result.last.startswith("sample.py: out of memory (")
    assert result.last.endswith("to need less: a smaller batch_size.")


def test_other_errors_of_torch_stay_what_they_are():
    with pytest.raises(RuntimeError, match="must match"), failures.enough_memory(""):
        torch.zeros(2) + torch.zeros(3)
    with pytest.raises(NotImplementedError), failures.enough_memory(""):
        raise NotImplementedError
    text = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1 GiB is free."
    )
    says = r"^out of memory \(CUDA out of memory\. Tried to allocate 2\.00 GiB\); to need less: b\.$"
    with pytest.raises(Failure, match=says), failures.enough_memory("b"):
        raise torch.OutOfMemoryError(text)
    with pytest.raises(Failure, match=r"^out of memory \(no more\); to need less: b\.$"), failures.enough_memory("b"):
        raise MemoryError


def test_a_run_whose_folder_is_gone_says_so(tmp_path, invoke, monkeypatch):
    path, log = tmp_path / "run", MetricsCSV.log_metrics

    def remove(self, *arguments, **options):
        shutil.rmtree(path)
        log(self, *arguments, **options)

    monkeypatch.setattr(MetricsCSV, "log_metrics", remove)
    result = invoke("train.py", *QUICK, "logger=none", f"paths.log_dir={tmp_path}", f"paths.run_dir={path}")
    assert result.code == 1
    assert f"paths.run_dir={path}: this folder was removed or moved, so nothing can be saved." in result.last


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("raise SystemExit(3)", "failed with exit code 3"),
    ],
)
def test_the_process_that_died_is_named(program, how, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_GRACE", 0.1)
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    dead = subprocess.Popen([sys.executable, "-c", program])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[living, dead])))
    try:
        says = rf"^rank 2 of 3 {how}; go on \(here: Connection closed by peer"
        with pytest.raises(Failure, match=says), processes.whole(trainer, tmp_path, lambda: "go on"):
            raise RuntimeError("Connection closed by peer [127.0.0.1]:4242")
        with pytest.raises(RuntimeError, match="sizes"), processes.whole(trainer, tmp_path, lambda: "go on"):
            raise RuntimeError("sizes")
    finally:
        living.kill()
        living.wait()


@pytest.mark.slow
def test_a_rank_that_is_killed_is_reported(tmp_path, start):
    path = tmp_path / "run"
    process = start(
        "train.py", *QUICK, "max_images=1000000", "batch_size=32", "callbacks.checkpoints.every_images=320",
        "logger=none", f"paths.log_dir={tmp_path}", f"paths.run_dir={path}",
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (path / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (rank,) = (child for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline()))
    rank.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGKILL)  # Lightning kills those that wait too long
    assert "train.py: rank 1 of 2 was ended by SIGKILL; the last checkpoint is kept; to continue: python " in err


@pytest.mark.slow
def test_the_error_of_one_rank_is_the_last_line(tmp_path):
    program = ROOT / "tests" / "scale" / "failing.py"
    done = subprocess.run(
        [sys.executable, str(program), *QUICK, "max_images=1000000", "batch_size=32", "logger=none",
         f"paths.log_dir={tmp_path}", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "FAILING": "1 training 3 raise"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith("train.py: rank 1 of 2 failed: ArithmeticError: two and two;")
    )
