"""Errors, help and the first line come before torch is imported; checks come without Lightning."""

import os
import resource
import shutil
import subprocess
import sys

import pytest
from conftest import QUICK, command

# Prints, when the interpreter ends, which of these packages were imported.
_HEAVY = (
    *("torch", "torch._dynamo", "pytorch_lightning", "torchmetrics", "torchvision", "wandb"),
    *("sklearn", "matplotlib", "scipy"),
)
_SPY = f"""
import atexit, os, sys
atexit.register(lambda: os.write(2, ("imported: " + " ".join(n for n in {_HEAVY!r} if n in sys.modules)).encode()))
"""


def timed(words, **options):
    """A process that has ended, and its seconds of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))


def started(tmp_path, program, *arguments):
    """Exit code, stderr without its last line, the packages imported, and the seconds of the processor."""
    (tmp_path / "sitecustomize.py").write_text(_SPY)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done, seconds = timed(command(program, *arguments), env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    err, _, imported = done.stderr.rpartition("imported: ")
    return done.returncode, err, imported.split(), seconds


@pytest.mark.parametrize(
    ("program", "arguments", "code", "says"),
    [
        ("train.py", ["optimizer.lrr=1"], 2, "did you mean 'optimizer.lr'?"),
        ("train.py", ["optimizer.lr=abc"], 2, "should be a valid number"),
        ("train.py", ["seed=-1"], 2, "greater than or equal to 0"),
        ("train.py", ["network=ddpm_tny"], 2, "did you mean 'ddpm_tiny'?"),
        ("train.py", ["evaluation.samplers=[dim]"], 2, "did you mean 'ddim'?"),
        ("train.py", ["-m", "optimizer.lr=1e-3,2e-3,abc"], 2, "optimizer.lr='abc'"),
        ("sample.py", ["ckpt=/nowhere"], 2, "no such run directory or checkpoint file"),
        ("sample.py", ["ckpt=/nowhere", "sampler.step=3"], 2, "did you mean 'sampler.steps'?"),
        ("sample.py", ["ckpt=.", "out=."], 2, "out=.: exists already; nothing is written over"),
        ("sample.py", ["--help"], 0, ""),
        ("train.py", ["--help", "network=adm"], 0, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_and_help_come_before_torch(program, arguments, code, says, tmp_path):
    got, err, imported, seconds = started(tmp_path, program, *arguments)
    assert (got, imported) == (code, []), err
    assert says in err
    # 1.5 on a quiet machine; 9 where torch and Lightning are imported. Seconds stretch where caches are shared.
    assert seconds < 5


def test_a_package_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "json,denoiselib.parts")
    code, err, imported, _ = started(tmp_path, "train.py", "--help", "network=adm")
    assert (code, imported, err.strip()) == (
        2,
        [],
        "train.py: DENOISELAB_ALLOW=denoiselib.parts: no such package; did you mean 'denoiselab'? allowed: packages "
        "that are installed, or in a folder of PYTHONPATH, separated by commas.",
    )


def test_a_reader_that_ends_early(start):
    process = start("train.py", "--help")
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (141, "")


def test_the_checks_of_a_sweep_come_without_lightning(tmp_path):
    """A device that is not there is found after all checks but those of Lightning's own constructors."""
    rates = ",".join(f"{n}e-4" for n in range(1, 9))
    arguments = [*QUICK, "-m", f"optimizer.lr={rates}", "network.groups=3", f"paths.log_dir={tmp_path}"]
    code, err, imported, _ = started(tmp_path, "train.py", *arguments)
    assert code == 2, err
    assert "network.groups=3" in err
    assert "loading torch" in err.splitlines()[0]
    assert imported[0] == "torch"
    assert not {"pytorch_lightning", "torchmetrics", "torchvision", "wandb", "matplotlib", "torch._dynamo"} & {
        *imported
    }


# Ends the program where the function of its first job is called.
_FIRST_JOB = """
import os
from types import SimpleNamespace
from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_train
command = cli._command
cli._command = lambda name: SimpleNamespace(check=command(name).check, run=lambda *job: os._exit(7))
cli.run("train", check_train)
"""


@pytest.fixture(scope="module")
def torch_seconds():
    """The seconds of a process that imports torch alone, with which the others stretch on a slow or busy machine."""
    return min(timed([sys.executable, "-c", "import torch"])[1] for _ in range(2))


def test_a_frontier_of_one_small_cell(torch_seconds, finished, tmp_path):
    """About 3 times the seconds of torch alone, of which sampling takes one; 4 where torch._dynamo is imported too."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    arguments = ["task=frontier", "task.samplers=[ddim]", "task.nfe=[7]", "task.num_samples=512", f"ckpt={run}"]
    code, err, imported, seconds = started(tmp_path, "sample.py", *arguments)
    assert code == 0, err
    assert not {"pytorch_lightning", "torchmetrics", "torchvision", "wandb", "sklearn", "torch._dynamo"} & {*imported}
    assert seconds < 3.6 * torch_seconds


def test_the_first_job_of_a_sweep(torch_seconds, tmp_path):
    """About 2 times the seconds of torch alone, from the start of the process to the call of the first of 8 jobs."""
    rates = ",".join(f"{n}e-4" for n in range(1, 9))
    arguments = [*QUICK, "-m", f"optimizer.lr={rates}", f"paths.log_dir={tmp_path}"]
    done, seconds = timed([sys.executable, "-c", _FIRST_JOB, *arguments], cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert seconds < 2.4 * torch_seconds


@pytest.mark.parametrize("wrong", ["optimizer.lr=-1", "evaluation.nfe=[0]", "ema.profiles.ema.half_life_images=-1"])
def test_a_value_that_only_its_class_refuses(wrong, torch_seconds, tmp_path):
    """The rest takes less than torch alone."""
    code, err, imported, seconds = started(tmp_path, "train.py", wrong, f"paths.log_dir={tmp_path}")
    assert code == 2, err
    assert wrong.partition("=")[0].split(".")[0] in err.splitlines()[-1]
    assert not {"pytorch_lightning", "torch._dynamo"} & {*imported}
    assert seconds < 2 * torch_seconds
