"""Training and sweeps on a real SLURM of two nodes, on this machine."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import slurm_cluster
from conftest import QUICK, ROOT

PROGRAM = [sys.executable, str(ROOT / "train.py")]
THREADS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
SUBMITIT = [
    "hydra/launcher=submitit_slurm",
    *(f"hydra.launcher.{option}" for option in ("partition=cpu", "nodes=1", "tasks_per_node=1", "cpus_per_task=2")),
    *(f"hydra.launcher.{option}" for option in ("timeout_min=5", "signal_delay_s=20", "mem_gb=null")),
]
QUEUE = ["sweep=slurm", "sweep.jobs=2", "sweep.sbatch=[--partition=cpu,--cpus-per-task=2]"]

if why := slurm_cluster.missing():
    pytest.skip(f"no SLURM here: {why}", allow_module_level=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a job begins, and SLURM writes what it prints


@pytest.mark.slow
def test_two_tasks_of_srun_on_two_nodes_are_one_training(cluster, tmp_path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2", "trainer.devices=1"]
    start = time.monotonic()
    done = cluster.run(
        "na", "srun", "--nodes=2", "--ntasks-per-node=1", *PROGRAM, *QUICK, *ddp, "logger=none",
        f"paths.log_dir={tmp_path}", f"paths.cache_dir={ROOT / 'logs' / 'cache'}", timeout=240, **THREADS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(f"{time.monotonic() - start:.1f} s")
    (run,) = (tmp_path / "digits").iterdir()  # one directory, called by the job
    assert run.name.isdecimal()
    assert "training: 100% of 64.0 img" in done.stderr
    with (run / "frontier.csv").open() as file:
        assert all(row["devices"] == "2" and row["score"] for row in csv.DictReader(file))
    # Nothing of the job is left, on no node.
    for node in slurm_cluster.NODES:
        assert "train.py" not in cluster.run(node, "squeue", "-h").stdout
    assert cluster.run("na", "squeue", "-h").stdout == ""


@pytest.mark.benchmark
def test_a_signal_puts_a_job_into_the_queue_again_and_it_continues(cluster, tmp_path):
    """As `#SBATCH --signal=USR1@120` sends before the time of a job is over."""
    run = tmp_path / "run"
    words = [
        *PROGRAM, *QUICK, "logger=none", "requeue=true", f"paths.run_dir={run}", "max_images=3200", "batch_size=32",
        "callbacks.checkpoints.every_images=160", "callbacks.loss_log.every_images=160",
    ]  # fmt: skip
    script = tmp_path / "job.sh"
    lines = ["--nodes=1", "--ntasks-per-node=1", "--requeue", "--open-mode=append", f"--output={tmp_path / 'out'}"]
    script.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {text}" for text in lines), f"srun {' '.join(words)}", ""]))
    start = time.monotonic()
    sent = cluster.run("na", "sbatch", "--parsable", script, **THREADS)
    number = sent.stdout.strip()
    assert number.isdecimal(), sent.stderr
    end = start + 120
    while not (run / "checkpoints" / "last.ckpt").is_file():
        assert time.monotonic() < end, (tmp_path / "out").read_text()
        time.sleep(0.2)
    cluster.run("na", "scancel", "--signal=USR1", number)
    assert cluster.wait(number, "PENDING REQUEUED", timeout=60)
    assert cluster.wait(number, timeout=180) == "COMPLETED", (tmp_path / "out").read_text()
    text = (tmp_path / "out").read_text()
    print(f"{time.monotonic() - start:.1f} s\n{text}")
    assert cluster.job(number)["Restarts"] == "1"
    assert f"job {number} is queued again" in text
    seen = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) of 3,200 images seen", text)]
    assert seen[0] == 0
    assert 160 <= seen[1] < 3200
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2
    with (run / "metrics.csv").open() as file:
        images = [int(row["images_seen"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert images == [*range(160, 3201, 160)]  # none lost, none twice


@pytest.mark.benchmark
@pytest.mark.parametrize("launcher", [SUBMITIT, QUEUE], ids=["submitit", "queue"])
def test_a_sweep_of_four_jobs_on_two_nodes(cluster, tmp_path, launcher):
    """Two jobs cannot be; the table of the sweep says why, of jobs in processes of other machines."""
    start = time.monotonic()
    done = cluster.run(
        "na", *PROGRAM, "-m", *QUICK, *launcher, "logger=none", "data.shape=[3,8,8],[1,8,8]", "seed=0,1",
        f"paths.log_dir={tmp_path}", timeout=280, **THREADS,
    )  # fmt: skip
    print(f"{time.monotonic() - start:.1f} s\n{done.stdout}")
    assert done.returncode == 1, done.stderr
    (sweep,) = (tmp_path / "digits").glob("sweep-*")
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "done"]
    assert "job 1 is failed (data.shape=[3,8,8] seed=1): data.shape=[3, 8, 8]: images of digits" in done.stdout
    assert "best: data.shape=[1,8,8]: frontier/best" in done.stdout
    hosts = {json.loads((sweep / job / "run.json").read_text())["starts"][0]["host"] for job in "23"}
    assert hosts <= set(slurm_cluster.NODES)


@pytest.mark.benchmark
def test_a_killed_sweep_finds_its_jobs_in_the_queue(cluster, tmp_path):
    """SIGKILL to the sweep, not to its jobs: the next start waits for those, and sends none twice."""
    start = time.monotonic()
    words = [*PROGRAM, "-m", *QUICK, *QUEUE, "logger=none", "seed=0,1,2", f"paths.log_dir={tmp_path}"]
    with subprocess.Popen(
        cluster.command("na", *words), env=cluster.environment | THREADS, stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while len(sent := [*tmp_path.glob("digits/sweep-*/.slurm/?")]) < 2:
            assert time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    numbers = {path.name: path.read_text() for path in sent}
    (sweep,) = (tmp_path / "digits").glob("sweep-*")
    done = cluster.run("na", *PROGRAM, "-m", f"sweep.resume={sweep}", timeout=200, **THREADS)
    print(f"{time.monotonic() - start:.1f} s\n{done.stdout}\n{done.stderr}")
    assert done.returncode == 0, done.stderr
    assert {name: (sweep / ".slurm" / name).read_text() for name in numbers} == numbers
    for job in "012":
        assert len(json.loads((sweep / job / "run.json").read_text())["starts"]) == 1
        result = json.loads((sweep / job / "result.json").read_text())
        assert result["status"] == "done"
        assert result["value"] > 0


@pytest.mark.benchmark
def test_a_killed_job_of_a_sweep_is_reported(cluster, tmp_path):
    """By SLURM's accounts, which submitit asks; the job's own record says that it ended without a word."""
    start = time.monotonic()
    words = [
        *PROGRAM, "-m", *QUICK, *SUBMITIT, "logger=none", "seed=0,1", f"paths.log_dir={tmp_path}", "max_images=64000",
        "batch_size=32",
    ]  # fmt: skip
    with subprocess.Popen(
        cluster.command("na", *words), env=cluster.environment | THREADS, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while not [*tmp_path.glob("digits/sweep-*/1/metrics.csv")]:
            assert time.monotonic() < end
            time.sleep(0.5)
        assert cluster.kill("submitit.core._submit") >= 2
        out, _ = process.communicate(timeout=150)
    print(f"{time.monotonic() - start:.1f} s\n{out}")
    assert process.returncode == 1
    for number in "01":
        assert f"job {number} is stopped (seed={number}): it ended without a word" in out
