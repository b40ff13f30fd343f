"""Sweeps of W&B: what its agent starts, as wandb's own code writes it. (Agents need W&B's server.)"""

import json
import os
import subprocess
import sys

import pytest
import wandb
import yaml
from conftest import QUICK, ROOT
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from denoiselab.app.config.spelling import of_agent
from denoiselab.app.runs.run_id import run_id

SWEEP = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())


def rendered(values):
    """The arguments of a trial, without those that name the program."""
    args = {name: {"value": value} for name, value in values.items()}
    macros = create_sweep_command_args({"args": args}) | {"env": [], "interpreter": [], "program": []}
    words = create_sweep_command(SWEEP["command"])
    return [part for word in words for part in (macros[word[2:-1]] if word.startswith("${") else [word])]


@pytest.fixture
def agent(monkeypatch):
    """The environment of a trial, as wandb's agent sets it, within a job of a cluster."""
    wandb.teardown()  # which has read the environment, if a test before has logged
    monkeypatch.delenv("DENOISELAB_RUN_ID", raising=False)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    monkeypatch.setenv("SLURM_JOB_ID", "777")
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # no processes of srun's are expected


def first(parameter):
    return next(
        parameter[key] if key != "values" else parameter[key][0]
        for key in ("value", "values", "min")
        if key in parameter
    )


def last(parameter):
    return next(
        parameter[key] if key != "values" else parameter[key][-1]
        for key in ("value", "values", "max")
        if key in parameter
    )


@pytest.mark.parametrize("choose", [first, last])
def test_the_trials_of_the_shipped_sweep_compose(choose, agent, invoke):
    values = {name: choose(parameter) for name, parameter in SWEEP["parameters"].items()}
    result = invoke("train.py", *rendered(values), "--cfg", "job")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["optimizer"]["lr"] == values["optimizer.lr"]
    assert config["callbacks"]["frontier"]["every_images"] is None  # not the text "None"
    assert config["evaluation"]["samplers"] == ["ddim", "heun"]
    assert values["augmentation"] in config["augmentation"]["_target_"].lower()
    assert config["paths"]["run_dir"].endswith("trial7") or "run_id" in config["paths"]["run_dir"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "k=null"),
        (True, "k=True"),
        (1e-05, "k=1e-05"),
        ("a,b", "k=a,b"),
        ("[ddim]", "k=[ddim]"),
        ([None, True, 2, "a b", "x=y"], 'k=[null,true,2,a b,"x=y"]'),
        ({"width": 3, "of": {"a": None, "b": ["c"]}}, "k={width:3,of:{a:null,b:[c]}}"),
    ],
)
def test_python_s_spelling_of_values_becomes_hydra_s(value, expected):
    (argument,) = rendered({"k": value})
    assert of_agent(argument) == expected


@pytest.mark.parametrize("argument", ["--help", "-m", "seed", "k={width:3}", "k=None2", "k='None'", "k=(1,2)", "k=\0"])
def test_other_arguments_stay(argument):
    assert of_agent(argument) == argument


def test_trials_in_one_job_of_a_cluster_have_ids_of_their_own(agent, monkeypatch):
    assert run_id() == "trial7"
    monkeypatch.setenv("WANDB_RUN_ID", "trial8")
    assert run_id() == "trial8"
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert run_id() == "777"


@pytest.mark.slow
def test_a_trial_runs_and_logs_the_value_that_the_sweep_minimises(agent, invoke, tmp_path):
    words = rendered({"optimizer.lr": 3e-4, "callbacks.preview.every_images": None})
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", "logger=wandb", "logger.wandb.mode=offline", *words
    )
    assert result.code == 0, result.err
    assert "W&B" not in result.err
    assert "Ignoring" not in result.err
    run = tmp_path / "digits" / "trial7"
    assert json.loads((run / "run.json").read_text())["wandb_id"] == "trial7"
    (file,) = run.glob("wandb/offline-run-*-trial7/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    done = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60, env=environment)
    summary = json.loads(done.stdout)["summary"]
    cells = json.loads((run / "frontier.json").read_text())
    assert summary[SWEEP["metric"]["name"]] == min(cell["score"] for cell in cells)
