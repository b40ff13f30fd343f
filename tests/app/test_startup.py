"""Errors, help and the first line come before torch is imported; checks come without Lightning."""

import os
import resource
import subprocess

import pytest
from conftest import QUICK, command

# Prints, when the interpreter ends, which of these packages were imported.
_HEAVY = ("torch", "pytorch_lightning", "torchmetrics", "torchvision", "wandb", "sklearn", "matplotlib", "scipy")
_SPY = f"""
import atexit, os, sys
atexit.register(lambda: os.write(2, ("imported: " + " ".join(n for n in {_HEAVY!r} if n in sys.modules)).encode()))
"""


def started(tmp_path, program, *arguments):
    """Exit code, stderr without its last line, the packages imported, and the seconds of the processor."""
    (tmp_path / "sitecustomize.py").write_text(_SPY)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command(program, *arguments), capture_output=True, text=True, env=env, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
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


def test_the_checks_of_a_sweep_come_without_lightning(tmp_path):
    """A device that is not there is found after all checks but those of Lightning's own constructors."""
    rates = ",".join(f"{n}e-4" for n in range(1, 9))
    arguments = [*QUICK, "-m", f"optimizer.lr={rates}", "network.groups=3", f"paths.log_dir={tmp_path}"]
    code, err, imported, _ = started(tmp_path, "train.py", *arguments)
    assert code == 2, err
    assert "network.groups=3" in err
    assert "loading torch" in err.splitlines()[0]
    assert imported[0] == "torch"
    assert not {"pytorch_lightning", "torchmetrics", "torchvision", "wandb", "matplotlib"} & {*imported}
