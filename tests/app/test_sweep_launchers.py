"""Whichever launcher starts the jobs, the sweep's table is the same; what a job costs beyond its process."""

import csv
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import QUICK, command
from test_sweep_engine import go_on, made, starts, states, until, worker

from denoiselab.app.sweeps.records import Sweep

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    "processes": ["sweep=processes", "sweep.jobs=2"],
}
_ASIDE = ("directory", "started", "ended", "seconds", "time")
SWEEP = ["-m", "optimizer.lr=1e-3,2e-3,1e30,3e-3,4e-3,5e-3"]


def run(tmp_path, *arguments, **options):
    env = {k: v for k, v in os.environ.items() if k not in ("WANDB_DATA_DIR", "DENOISELAB_RUN_ID")}
    words = command("train.py", *QUICK, f"paths.log_dir={tmp_path}", *arguments)
    return subprocess.run(words, capture_output=True, text=True, timeout=900, env={**env, "OMP_NUM_THREADS": "1"})


ERROR = "train/loss is inf at 64 images seen"

# Is in the way of the program's training, in all processes: a job is worth its learning rate.
STAND_IN = f"""
import sys, types
from denoiselab.app.sweeps.results import Outcome
from denoiselab.errors import Failure
def run(config, directory, stage):
    if config["optimizer"]["lr"] > 1:
        raise Failure("{ERROR}; lower it.")
    return Outcome(config["optimizer"]["lr"])
module = types.ModuleType("denoiselab.app.commands.training")
module.run = run
sys.modules[module.__name__] = module
"""


def newest(tmp_path):
    """The directory of the last sweep."""
    return max(tmp_path.glob("digits/sweep-*"), key=lambda path: path.stat().st_mtime)


def table(directory):
    with (directory / "sweep.csv").open() as file:
        rows = [{k: row[k] for k in row if k not in _ASIDE} for row in csv.DictReader(file)]
    for row in rows:
        row["error"] = row["error"].partition(";")[0]  # the run's directory follows
    return rows


@pytest.mark.slow
def test_jobs_of_two_launchers_are_in_one_table(tmp_path, monkeypatch, invoke):
    """As below, of jobs that train nothing."""
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tables = []
    for name in ("joblib", "processes"):
        done = invoke("train.py", "-m", *QUICK, "optimizer.lr=1e-3,1e30", *LAUNCHERS[name], f"paths.log_dir={tmp_path}")
        assert done.code == 1, done.err
        tables.append(table(newest(tmp_path)))
    assert tables[0] == tables[1]
    assert [(row["status"], row["best_score"]) for row in tables[0]] == [("done", "0.001"), ("failed", "")]
    assert tables[0][1]["error"] == ERROR


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_every_launcher_gives_the_same_table(tmp_path):
    """6 jobs, 2 at a time (submitit_local starts all); one of them diverges."""
    tables = {}
    for name, words in LAUNCHERS.items():
        done = run(tmp_path, *SWEEP, *words)
        assert done.returncode == 1, done.stderr
        directory = newest(tmp_path)
        (directory / "sweep.csv").unlink(missing_ok=True)
        report = [sys.executable, "-m", "denoiselab.report", f"sweep_dir={directory}"]
        assert subprocess.run(report, capture_output=True, check=False).returncode == 0
        tables[name] = rows = table(directory)
        assert [row["status"] for row in rows] == ["done", "done", "failed", *["done"] * 3], name
        assert rows[2]["error"] == ERROR
    assert all(rows == tables["basic"] for rows in tables.values())


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_a_pruned_job_of_a_real_training(tmp_path):
    """The second learning rate learns nothing."""
    looks = ["callbacks.frontier.every_images=32", "callbacks.frontier.nfe=[2]", "callbacks.frontier.num_samples=8"]
    looks += [
        "callbacks.frontier.samplers=[ddim]",
        "max_images=256",
        "batch_size=32",
        "trainer.limit_train_batches=1.0",
    ]
    pruner = ["sweep=processes", "sweep/pruner=median", "sweep.pruner.n_startup_trials=1"]
    done = run(tmp_path, "-m", "optimizer.lr=1e-3,1.0", *looks, *pruner)
    assert done.returncode == 0, done.stderr
    (directory,) = tmp_path.glob("digits/sweep-*")
    jobs = Sweep.read(directory).jobs
    assert [job.status for job in jobs] == ["done", "pruned"]
    assert (directory / "1" / "checkpoints" / "last.ckpt").is_file()
    assert "pruned at a score of" in jobs[1].error
    assert re.search(r"^1 +1.0 .*pruned", done.stdout, re.MULTILINE)


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_a_hundred_jobs_of_a_second(tmp_path):
    """Less than a second a job beyond its own; killed half-way and resumed, only the rest runs."""
    made(tmp_path, [[f"x={n}", "sleep=1"] for n in range(100)])
    process = worker(tmp_path, 4)
    until(lambda: (tmp_path / "0").exists())
    before = time.monotonic()
    until(lambda: (tmp_path / "48").exists())
    seconds = (time.monotonic() - before) / 48 * 4
    process.kill()
    process.wait()
    print(f"{seconds:.2f} s a job of 1 s, {seconds - 1:.2f} s beyond it")
    assert seconds < 2
    time.sleep(3)
    begun = sum((tmp_path / str(n)).exists() for n in range(100))
    done = go_on(tmp_path, 4)
    assert states(done) == ["done"] * 100
    assert [len(starts(job)) for job in done.jobs] == [1] * 100
    assert begun < 60
