"""Jobs of a sweep as jobs of SLURM, with stand-ins for its commands; `tests/scale/test_slurm.py` has the real ones."""

import os
import time
from argparse import Namespace

import pytest
from configurations import composing
from omegaconf import OmegaConf

from denoiselab.app.building.check_run import check_config
from denoiselab.app.commands import sweeping
from denoiselab.app.config.overrides import composed
from denoiselab.app.config.settings import SweepSettings
from denoiselab.app.runs import devices, launches
from denoiselab.app.runs.run_id import name_multirun, run_id
from denoiselab.app.sweeps import slurm
from denoiselab.app.sweeps.records import Job, Sweep
from denoiselab.app.sweeps.starters import alone, without_launchers
from denoiselab.errors import BadInput, Failure

COMMANDS = {
    "sbatch": """[ -f $S/refuses ] && { echo "sbatch: error: invalid partition" >&2; exit 1; }
n=$(($(ls $S/jobs | wc -l) + 1)); echo "$*" > $S/options; cat > $S/script$n
setsid bash $S/script$n > $S/out$n 2>&1 < /dev/null & echo $! > $S/jobs/$n; echo $n""",
    "squeue": """[ -f $S/silent ] && exit 1
[ -f $S/pending ] && { echo "1 PENDING"; exit; }
for f in $S/jobs/*; do kill -0 $(cat $f) 2> /dev/null && echo "$(basename $f) RUNNING"; done; true""",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scancel": 'for n; do :; done; kill -TERM -$(cat $S/jobs/$n); echo "$*" > $S/cancelled',
    "scontrol": "echo JobId=1 JobState=CANCELLED",
}


@pytest.fixture
def state(tmp_path, monkeypatch):
    place = tmp_path / "state"
    (place / "jobs").mkdir(parents=True)
    for name, text in COMMANDS.items():
        (place / name).write_text(f"#!/bin/bash\nS={place}\n{text}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_PAUSE", 0.0)
    return place


def job(tmp_path, number=0):
    return Job(number, tmp_path / "sweep" / str(number), ("a b",), run_id=f"x-{number}")


def starter(code, **options):
    return slurm.Slurm(["bash", "-c", code], 2, **options)


def ended(started):
    end = time.monotonic() + 20
    while (code := started.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return code


@pytest.mark.parametrize("code", [0, 76])
def test_a_job_ends_with_its_own_exit_code(state, tmp_path, code):
    text = f'echo "$0 $DENOISELAB_RUN_ID $TRIAL" > {tmp_path / "said"}; exit {code}'
    started = starter(text, nodes=2, tasks=8, options=["--partition=gpu"]).start(job(tmp_path), 0, {"TRIAL": "5"})
    assert ended(started) == code
    assert (tmp_path / "said").read_text() == "a b x-0 5\n"
    assert (state / "options").read_text() == "--parsable --partition=gpu\n"
    lines = (state / "script1").read_text().splitlines()
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8", "#SBATCH --job-name=x-0"} <= {*lines}
    assert f"#SBATCH --output={tmp_path / 'sweep' / '0' / 'job.log'}" in lines


def test_a_job_that_is_in_the_queue_is_not_sent_again(state, tmp_path):
    first = starter("sleep 20").start(job(tmp_path), 0, {})
    again = starter("sleep 20").start(job(tmp_path), 1, {})  # of a sweep that goes on
    assert [*os.listdir(state / "jobs")] == ["1"]  # noqa: PTH208
    (state / "silent").touch()  # a controller that does not answer has not lost the job
    assert (first.poll(), again.poll()) == (None, None)
    (state / "silent").unlink()
    again.stop()
    assert (state / "cancelled").read_text() == "--signal=TERM 1\n"
    assert ended(first) == 143
    assert starter("true").start(job(tmp_path), 0, {}).number == "2"


def test_a_job_that_queues_itself_again_at_a_stop_is_cancelled(state, tmp_path):
    started = starter("sleep 20").start(job(tmp_path), 0, {})
    started.stop()
    assert (state / "cancelled").read_text() == "--signal=TERM 1\n"
    (state / "pending").touch()  # requeue=true
    assert started.poll() is None
    assert (state / "cancelled").read_text() == "1\n"
    (state / "pending").unlink()
    assert ended(started) == 143


def test_jobs_may_queue_themselves_again_though_the_sweep_is_no_job_of_slurms(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    with composing():
        config = OmegaConf.to_container(composed("train", ["requeue=true"]), resolve=True)
        with pytest.raises(BadInput, match="requeue=true: this is no job"):
            check_config(config, sweeping=False)
        with devices.elsewhere():
            check_config(config, sweeping=False)
    settings = {"launcher": "processes", "jobs": 1, "devices_per_job": 1, "sampler": "grid", "trials": None, "seed": 0}
    with pytest.raises(BadInput, match="requeue=true: jobs of sweep=processes are no jobs of SLURM's"):
        sweeping._processes([config], SweepSettings(**settings, resume=None), [])


def test_jobs_on_a_cpu_take_cores_where_there_are_gpus(monkeypatch):
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    monkeypatch.setattr(sweeping, "_available", lambda: (1, 4))

    def start(accelerator):
        words = ["sweep=processes", "sweep.devices_per_job=2", "trainer=ddp", f"trainer.accelerator={accelerator}"]
        with composing():
            sweeping.run("train", Namespace(overrides=[*words, "seed=0,1"], folders={}), check)

    def check(jobs):
        raise Failure(f"{len(jobs)} jobs are checked")

    with pytest.raises(Failure, match="2 jobs are checked"):
        start("cpu")
    with pytest.raises(BadInput, match=r"sweep\.devices_per_job=2: this machine has 1 GPU\(s\)"):
        start("gpu")


def test_multiruns_of_one_job_of_the_cluster_have_ids_of_their_own(monkeypatch):
    """The same when the job is queued again, and starts the same command."""
    monkeypatch.setenv("SLURM_JOB_ID", "777")
    found = []
    for seeds in ("0,1", "2,3", "0,1"):
        monkeypatch.setenv("DENOISELAB_RUN_ID", "")
        monkeypatch.delenv("DENOISELAB_RUN_ID")
        name_multirun(["train.py", "-m", f"seed={seeds}"])
        found.append(run_id())
    assert found[0] == found[2] != found[1]
    assert all(name.startswith("777-") for name in found)
    name_multirun(["another"])
    assert run_id() == found[2]


def test_what_sbatch_refuses_is_said(state, tmp_path):
    (state / "refuses").touch()
    with pytest.raises(Failure, match="sbatch: sbatch: error: invalid partition"):
        starter("true").start(job(tmp_path), 0, {})
    with pytest.raises(BadInput, match=r"sweep\.sbatch=-p gpu: is no option of sbatch"):
        starter("true", options=["-p gpu"])


def test_a_job_does_not_see_the_ranks_around_it_but_the_cluster():
    own = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "x"}
    assert without_launchers({**own, "SLURM_JOB_ID": "7", "RANK": "1"}) == own


def test_devices_of_other_machines_are_not_asked_for():
    trainer = {
        "accelerator": "gpu", "devices": 512, "precision": "32-true", "num_nodes": 1, "accumulate_grad_batches": 1,
        "strategy": "ddp",
    }  # fmt: skip
    with pytest.raises(BadInput):
        devices.check_devices(trainer, 512, sweeping=False)
    with devices.elsewhere():
        devices.check_devices(trainer, 512, sweeping=False)
        with pytest.raises(BadInput, match="batch_size=500"):
            devices.check_devices(trainer, 500, sweeping=False)


def test_jobs_of_a_queue_within_a_job_of_slurms_have_as_many_devices_as_they_like(monkeypatch):
    """A batch script of one task with all GPUs of a node; tasks that srun starts would each start the sweep."""
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(BadInput, match="SLURM gives 1 task"):
        launches.check_launch(2, 1)
    with alone():
        launches.check_launch(2, 1)
    assert os.environ["SLURM_NTASKS"] == "1"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(BadInput, match="srun has started 2 of this program"), alone():
        pass


def test_a_sweep_goes_on_with_another_number_of_devices(tmp_path):
    planned = {0: ("trainer=ddp", "seed=0", "trainer.devices=2"), 1: ("trainer=ddp", "seed=1", "trainer.devices=2")}
    former = Sweep(tmp_path, "id", "processes", ("seed",), "frontier/best", ("train.py",), planned)
    found = sweeping._with_devices(former, ["trainer=ddp", "seed=0,1"], ["trainer.devices=4"])
    assert found == {n: ("trainer=ddp", f"seed={n}", "trainer.devices=4") for n in range(2)}
    typed = ["trainer=ddp", "seed=0,1", "trainer.devices=2"]
    assert sweeping._with_devices(former, typed, []) == planned


def test_a_pruner_compares_what_is_optimised():
    settings = SweepSettings(
        launcher="processes", jobs=1, devices_per_job=1, sampler="grid", trials=None, seed=0, resume=None,
        pruner={"_target_": "optuna.pruners.MedianPruner"},
    )  # fmt: skip
    config = {"callbacks": {"frontier": {"every_images": 10}}, "optimized_metric": "frontier/best"}
    sweeping._check_pruner([config], settings)
    with pytest.raises(BadInput, match=r"optimized_metric=held_out/loss: sweep\.pruner compares"):
        sweeping._check_pruner([{**config, "optimized_metric": "held_out/loss"}], settings)
