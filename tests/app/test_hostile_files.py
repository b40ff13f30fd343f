"""Experiments of others in conf/: they may choose options, not code, and nothing outside of the run is written."""

import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

from denoiselab.app.commands import cli

# Each would make the file that $MARKER names.
CALL = "{x: {class: logging.os.system, command: 'touch $MARKER'}}"
SITE = "{_target_: logging.FileHandler, filename: $MARKER}"
TARGET = "{_target_: denoiselab.data.Digits, name: x, shape: [1, 8, 8], trust_pickles: true}"
HOSTILE = {
    "a logging handler": f"hydra: {{job_logging: {{handlers: {CALL}}}}}",
    "a logging handler, made when it is resolved": (
        f'hydra: {{job_logging: "${{oc.create:\\"{{version: 1, handlers: {CALL}}}\\"}}"}}'
    ),
    "a logging handler of Hydra's own log": f"hydra: {{hydra_logging: {{handlers: {CALL}}}}}",
    "a handler that is resolved": f'hydra: {{job_logging: {{handlers: "${{oc.create:\\"{CALL}\\"}}"}}}}',
    "a log file elsewhere": "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: $MARKER}}}}",
    "a callback": f"hydra: {{callbacks: {{id: {SITE}}}}}",
    "callbacks, made when they are resolved": f'hydra: {{callbacks: "${{oc.create:\\"{{x: {SITE}}}\\"}}"}}',
    "a launcher's part": f"hydra: {{launcher: {{id: {SITE}}}}}",
    "a sweeper's part": f"hydra: {{sweeper: {{x: {SITE}}}}}",
    "a sweep that brings a callback": f'hydra: {{sweeper: {{params: {{+hydra.callbacks.x: "{SITE}"}}}}}}',
    "a sweep that is resolved": (
        f'hydra: {{sweeper: {{params: "${{oc.create:\\"{{+hydra.callbacks.x: \'{SITE}\'}}\\"}}"}}}}'
    ),
    "overrides": f"hydra: {{overrides: {{hydra: ['+hydra.callbacks.x={SITE}']}}}}",
    "a sweep nobody asked for": "hydra: {mode: MULTIRUN, sweep: {dir: $MARKER}}",
    "the environment": "hydra: {job: {env_set: {DENOISELAB_ALLOW: os.}}}",
    "a folder to run in": "hydra: {run: {dir: $MARKER}}",
    "a folder for overrides": "hydra: {output_subdir: $MARKER}",
    "a job's name": "hydra: {job: {name: $MARKER}}",
    "trust in data": f"data: {TARGET}",
    "trust that is resolved": "data: {trust_pickles: \"${oc.decode:'true'}\"}",
}


class Hostile:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def start(tmp_path, monkeypatch, capfd):
    """Start train.py with one YAML more, the rest of its configuration cut short, and a task that leaves a trace."""
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    own = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())
    own["defaults"] = ["_self_", {"experiment": None}, {"override hydra/job_logging": "stdout"}]
    own |= {"data": {"name": "digits"}, "paths": {"log_dir": str(tmp_path / "cwd")}, "optimizer": {"lr": 1.0}}
    (conf / "train.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    environment = dict(os.environ)

    def call(text, *arguments):
        (conf / "experiment" / "other.yaml").write_text(f"# @package _global_\n{text}\n")
        ran = []

        def task(config, directory):
            ran.append(config)
            return 1.0

        command = SimpleNamespace(check=lambda config, sweeping: None, run=task)
        monkeypatch.setattr(cli, "_command", lambda name: command)
        monkeypatch.setattr(cli, "_CONF", conf)
        monkeypatch.setattr(sys, "argv", ["train.py", "experiment=other", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run("train")
        return stop.value.code, ran, capfd.readouterr().err

    yield call
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_experiment_runs_no_code(name, start, tmp_path):
    marker = tmp_path / "ran"
    sweep = ["-m", "seed=0,1"] if name.startswith("a sweep") else []
    code, ran, err = start(HOSTILE[name].replace("$MARKER", str(marker)), *sweep)
    assert not marker.exists()
    assert ran == []
    assert code == 2
    said = err.strip().splitlines()
    assert len(said) == 1, err
    assert said[0].startswith("train.py: ")
    assert any(text in said[0] for text in ("not allowed", "only on the command line", "not in '")), said
    assert os.listdir(tmp_path / "cwd") == []  # noqa: PTH208


def test_what_is_resolved_at_the_start_of_a_job_is_checked_then(start, monkeypatch):
    """A value that is another each time it is resolved."""
    answers = iter([False, True])
    monkeypatch.setattr(cli.resolvers, "_RESOLVERS", {**cli.resolvers._RESOLVERS, "turn": lambda: next(answers)})
    code, ran, err = start("data: {trust_pickles: '${turn:}'}")
    assert (code, ran) == (2, [])
    assert "data.trust_pickles=True: is set by a file; it takes effect only on the command line." in err


def test_the_command_line_says_what_is_trusted(start):
    code, ran, err = start("", "+data.trust_pickles=true")
    assert code == 0, err
    assert ran[0]["data"]["trust_pickles"] is True


def test_an_experiment_may_bring_a_sweep_over_options(start):
    code, ran, err = start("hydra: {sweeper: {params: {optimizer.lr: '1e-3,1e-4'}}}", "-m", "seed=0,1")
    assert code == 0, err
    assert [(config["optimizer"]["lr"], config["seed"]) for config in ran] == [
        *((1e-3, 0), (1e-3, 1)),
        *((1e-4, 0), (1e-4, 1)),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [
            'hydra.run.dir="."',
            "hydra.job.name=train_ddp_process_1",
            "hydra.output_subdir=null",
        ],  # Lightning's, of a rank
        ["hydra/job_logging=none", "hydra/hydra_logging=disabled", "hydra.verbose=[x]"],
        ["-m", "seed=1,2", "hydra.sweep.dir=sweep", "hydra/launcher=basic", "hydra.sweeper.max_batch_size=1"],
    ],
)
def test_the_command_line_may_set_these_of_hydra(arguments, start):
    code, ran, err = start("", *arguments)
    assert (code, len(ran)) == (0, 2 if "-m" in arguments else 1), err


def test_a_pickled_configuration_is_not_read(start, tmp_path):
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    code, ran, err = start("", f"--experimental-rerun={tmp_path / 'config.pickle'}")
    assert (code, ran) == (2, [])
    assert "--experimental-rerun" in err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("hydra/job_logging=default", "hydra.job_logging"),  # a log file in the working directory
        ("hydra.run.dir=x", "hydra.run.dir"),
        ("hydra.output_subdir=x", "hydra.output_subdir"),
        ("hydra.mode=MULTIRUN", "start a multirun with -m"),
        ("+hydra.job.env_set.A=x", "hydra.job.env_set.A"),
        ("hydra.searchpath=[pkg://antigravity]", "antigravity is not an allowed package"),
        ("+hydra.sweeper.x='${oc.create:{_target_: os.system}}'", "os.system is not allowed there"),
    ],
)
def test_and_no_others(argument, says, start, tmp_path):
    code, ran, err = start("", argument)
    assert (code, ran) == (2, [])
    assert says in err
    assert os.listdir(tmp_path / "cwd") == []  # noqa: PTH208
