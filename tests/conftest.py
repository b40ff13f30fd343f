"""How the tests start the programs: as a user would, in a process, or faster, in this one."""

from __future__ import annotations

import functools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.utils import JobRuntime

from denoiselab.app.commands import cli
from denoiselab.app.config.hydra_node import CheckedLoader

pytest_plugins = ["speeds"]  # the table of benchmarks

ROOT = Path(__file__).resolve().parent.parent
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # what the tests start inherits it
    torch.set_num_threads(1)  # some plugin may have imported torch before
os.environ["MPLBACKEND"] = "agg"
# A shell ignores Ctrl-C for what a script starts in the background, and others block signals; both are inherited.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
for variable in ("WANDB_API_KEY", "WANDB_MODE", "DENOISELAB_RUN_ID", "DENOISELAB_ALLOW"):
    os.environ.pop(variable, None)

# Every phase of a run in a second or two.
QUICK = [
    "debug=fast_dev_run",
    "network.channels=8",
    "network.groups=4",
    "evaluation.samplers=[ddim]",
    "evaluation.extractor.epochs=1",
    "traceback=false",
    "trainer.detect_anomaly=false",
]


SHIPPED = {f"file://{ROOT / 'conf'}", "pkg://hydra.conf", "structured://"}


class SharedLoader(CheckedLoader):
    """Programs in this process compose the shipped files once; a folder that a test makes is read each time."""

    _of_files = functools.lru_cache(maxsize=256)(CheckedLoader._of_files.__wrapped__)

    def _state(self):
        folders = tuple(source.full_path() for source in self.repository.get_sources())
        job = JobRuntime.instance().get("name"), Path.cwd()  # are in the node hydra
        return (folders, job) if SHIPPED.issuperset(folders) else id(self)

    def __hash__(self):
        return hash(self._state())

    def __eq__(self, other):
        return self._state() == other._state()


def pytest_xdist_auto_num_workers(config):
    """The whole suite takes two processes (`-n 8`: eight), a named part of it one; so do comparisons of speed."""
    whole = (
        config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and config.option.markexpr == "not benchmark and not gpu"
    )
    return 2 if whole else 0


def pytest_configure(config):
    """Quick runs share the classifiers that score them: those of one data set differ in nothing."""
    cli.CheckedLoader = SharedLoader
    cli.leave = sys.exit  # a program that a test calls in this process raises SystemExit at its end
    cache = tempfile.mkdtemp(prefix="denoiselab-")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    QUICK.append(f"paths.cache_dir={cache}")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr: what the user is told."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / program), *arguments]


def quick_to_start(script: str, seconds: float) -> bool:
    """Whether a script, which prints the seconds of an import and what it must not load, is quick once in three."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        (taken,) = done.stdout.split()
        if float(taken) < seconds:
            return True
    return False


@pytest.fixture
def start():
    """Start a program as a process; what still runs at the end of the test is killed."""
    started = []

    def popen(program, *arguments, **options):
        process = subprocess.Popen(
            command(program, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def run(start):
    """Run a program as a process to its end."""

    def call(program, *arguments, **options):
        process = start(program, *arguments, **options)
        out, err = process.communicate(timeout=300)
        return Result(process.returncode, out, err.replace("\r", "\n"))

    return call


@pytest.fixture
def invoke(monkeypatch, capfd):
    """Run a program inside this process: the same code from the same command line, without the imports' seconds."""

    def call(program, *arguments):
        monkeypatch.delenv("DENOISELAB_RUN_ID", raising=False)
        monkeypatch.setattr(sys, "argv", command(program, *arguments)[1:])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        out, err = capfd.readouterr()
        return Result(exit_.value.code, out, err.replace("\r", "\n"))

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of a finished quick run, with W&B offline. Tests copy it before they change it."""
    logs = tmp_path_factory.mktemp("finished")
    path = logs / "run"
    arguments = [*QUICK, "logger=wandb", f"paths.log_dir={logs}", f"paths.run_dir={path}"]
    arguments.append(f"paths.cache_dir={logs / 'cache'}")  # the classifier's training is shown
    # A run inside this process leaves W&B's folder in its environment.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_DATA_DIR"}
    done = subprocess.run(command("train.py", *arguments), capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    (logs / "stdout.txt").write_text(done.stdout)
    (logs / "stderr.txt").write_text(done.stderr)
    return path
