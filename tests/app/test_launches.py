"""Processes that torchrun or SLURM did not start are refused, with the command that starts them."""

import subprocess

import pytest

from denoiselab.app.runs import launches
from denoiselab.errors import BadInput

STEP = {"SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "says"),
    [
        ({"SLURM_NTASKS": "1"}, 2, 1, r"SLURM gives 1 task.*srun --nodes=1 --ntasks-per-node=2 python"),
        ({"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "2", **STEP}, 2, 1, "SLURM gives 1 task"),
        ({"SLURM_NTASKS": "4"}, 4, 1, r"--ntasks=4 without --ntasks-per-node.*srun --nodes=1 --ntasks-per-node=4"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}, 2, 2, r"srun has started none.*--nodes=2"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", **STEP}, 1, 2,
         r"SLURM gives 1 node.*srun --nodes=2 --ntasks-per-node=1 .*trainer\.num_nodes=1"),
        ({"SLURM_NTASKS": "two"}, 2, 1, "SLURM_NTASKS=two: .*must be a number"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 1, 1,
         r"torchrun has started 4 processes.*trainer\.devices=2 trainer\.num_nodes=2"),
    ],
)  # fmt: skip
def test_a_launch_that_contradicts_the_devices_is_refused(variables, devices, nodes, says, monkeypatch):
    _only(monkeypatch, variables)
    with pytest.raises(BadInput, match=says):
        launches.check_launch(devices, nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({}, 4, 2),
        ({"SLURM_NTASKS": "1"}, 1, 1),
        ({"SLURM_NTASKS": ""}, 2, 1),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}, 2, 1),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", **STEP}, 2, 2),
        ({"SLURM_NTASKS": "1", "TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, 1),
    ],
)
def test_others_are_not(variables, devices, nodes, monkeypatch):
    _only(monkeypatch, variables)
    launches.check_launch(devices, nodes)


def test_a_job_is_queued_again_by_its_number(monkeypatch, capsys):
    _only(monkeypatch, {})
    with pytest.raises(BadInput, match="no job of SLURM's"):
        launches.check_requeue(asked=True)
    called = []

    def run(command, **options):
        called.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    _only(monkeypatch, {"SLURM_JOB_ID": "12"})
    launches.requeue()
    _only(monkeypatch, {"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "13", "SLURM_ARRAY_TASK_ID": "1"})
    launches.requeue()
    assert called == [["scontrol", "requeue", "12"], ["scontrol", "requeue", "13_1"]]
    assert "SLURM's job 13_1 is queued again." in capsys.readouterr().err


def _only(monkeypatch, variables):
    names = ("NTASKS", "NTASKS_PER_NODE", "STEP_ID", "JOB_NAME", "JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID")
    for name in (*(f"SLURM_{name}" for name in names), "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("task", "variables", "refused"),
    [
        ("generate", {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, "torchrun has started 2 of this program"),
        ("generate", {"SLURM_STEP_NUM_TASKS": "2"}, "srun has started 2 of this program"),
        ("frontier", {"SLURM_STEP_NUM_TASKS": "2"}, "srun has started 2 of this program"),
        ("frontier", {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, None),  # they share the samples
        ("search", {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, None),
    ],
)
def test_what_one_process_does_is_not_started_several_times(task, variables, refused, monkeypatch, invoke, tmp_path):
    _only(monkeypatch, variables)
    over = ["task.over={nfe:[2,3]}"] if task == "search" else []
    result = invoke("sample.py", f"ckpt={tmp_path}", f"task={task}", *over)
    assert result.code == 2
    assert (refused or "ckpt=") in result.last
    assert ("of this program" in result.last) == (refused is not None)
