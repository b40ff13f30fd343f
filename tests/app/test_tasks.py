"""`sample.py task=...`: each task has its own options, and a new one is a class and a file."""

import dataclasses
import json
import re
import shlex

import pytest
from configurations import CONF, names
from conftest import ROOT
from hydra import compose, initialize_config_dir

from denoiselab.app.commands import cli
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.config.tasks import check_spelling, written_out
from denoiselab.app.tasks.task import Task
from denoiselab.errors import BadInput
from denoiselab.nodes.instantiate import resolve

TASKS = names("task")


def composed(task):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("sample", [f"task={task}"])


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_a_class_whose_options_are_documented_and_its_own(task):
    kind = resolve(composed(task).task._target_, "task")
    assert issubclass(kind, Task)
    options = [field.name for field in dataclasses.fields(kind)]
    docs = "\n".join(ancestor.__doc__ or "" for ancestor in kind.__mro__)
    assert set(options) <= set(re.findall(r"^        (\w+): ", docs, re.MULTILINE))
    assert not {*options} & {field.alias or name for name, field in SampleSettings.model_fields.items()}


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (["frontier=default", "frontier.nfe=[5, 9]"], ["task=frontier", "task.nfe=[5, 9]"]),
        (["frontier=default", "frontier.weights=[ema,raw]"], ["task=frontier", "weights=[ema,raw]"]),
        (
            ["frontier=default", "+evaluation/extractor@frontier.extractor=classifier"],
            ["task=frontier", "evaluation/extractor@task.extractor=classifier"],
        ),
        (
            ["likelihood=ode", "likelihood.rtol=0.1", "trace@likelihood.trace=exact", "split=train", "repeats=2"],
            ["task=likelihood", "task/method=ode", "task.method.rtol=0.1", "trace@task.method.trace=exact",
             "split=train", "repeats=2"],
        ),
        (["likelihood=bound", "+likelihood.clip=1"], ["task=likelihood", "task/method=bound", "+task.method.clip=1"]),
        (["grid=local_errors", "grid.fine=20"], ["task=fit_grid", "task/method=local_errors", "task.method.fine=20"]),
        (["export=dit", "frontier=null"], ["task=export", "task.format=dit"]),
        (["encode=train", "num_samples=8"], ["task=encode", "task.split=train", "num_samples=8"]),
        (["interpolate=3"], ["task=interpolate", "task.frames=3"]),
        (["frontier.nfe=[5]"], ["task.nfe=[5]", "task=frontier"]),
        (["frontier=default", "sampler=ddim"], ["task=frontier"]),
    ],
)  # fmt: skip
def test_a_former_spelling_is_answered_by_the_command_of_now(former, now, finished, tmp_path, invoke, monkeypatch):
    (tmp_path / "a b").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run_jobs", lambda *_: None)
    result = invoke("sample.py", "ckpt=a b", *former)
    assert result.code == 2
    command = shlex.split(result.last.partition("; write: ")[2])
    assert command == ["python", "sample.py", "ckpt=a b", *now]
    result = invoke("sample.py", *command[2:])
    assert result.code == 0, result.err


def test_options_of_a_task_are_found_without_its_name(invoke, monkeypatch):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["ckpt=x", "num_samples=8", "task.seed=1", "sampler.steps=3", "guidance=2"]
        full = ["ckpt=x", "task.num_samples=8", "task.seed=1", "sampler.steps=3", "task.guidance=2"]
        assert written_out(given, "generate") == full
        assert written_out(["task=likelihood", "method.rtol=1"], "generate") == [
            "task=likelihood",
            "task.method.rtol=1",
        ]
        assert written_out(["task=export", "num_samples=8"], "generate") == ["task=export", "num_samples=8"]
        assert written_out(["task=export,encode", "split=train"], "generate")[1] == "task.split=train"
        with pytest.raises(BadInput, match="task=null: one is needed; allowed: edit, encode, export"):
            written_out(["task=null"], "generate")
    check_spelling(["gridded=1", "callbacks.frontier.nfe=3"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task=export", "seed=3"], ["seed=3: unknown option", "Export takes: format"]),
        (
            ["task=frontier", "noise=brownian"],
            ["noise=brownian: unknown option", "ScoreFrontier takes: ", "samplers, nfe"],
        ),
        (
            ["task=frontier", "sampler=heun"],
            ["task=edit, encode, fit_grid, fit_solver, generate, interpolate", "'task.samplers'"],
        ),
        (
            ["task=likelihood", "+task.guidance=2"],
            ["task.guidance=2: unknown", "MeasureLikelihood takes: method"],
        ),
        (
            ["task=likelihood", "task/method=local_errors"],
            ["task/method=local_errors: not with this task; allowed: bound, continuous_bound, ode."],
        ),
        (
            ["task=likelihood", "task/method=mmps"],
            ["task/method=mmps: not with this task; allowed: bound, continuous_bound, ode."],
        ),
        (
            ["task=fit_grid", "task/method=ode"],
            ["task/method=ode: not with this task; allowed: gits, local_errors, nearest_end."],
        ),
        (["split=train"], ["split=train: unknown option", "takes: num_samples, batch_size"]),
        (["n_samples=3"], ["did you mean 'num_samples'"]),
        (["task=frontier", "task.num_samples=1"], ["task.num_samples=1", "at least 2"]),
        (["task=frontier", "task.best_under=40"], ["best_under=40: it must be a number above 0 and a unit: 40ms"]),
        (["task=search", "logger=wandb"], ["logger=wandb: not with this task, but with task=frontier; Search"]),
        (["task=fontier"], ["task=fontier: unknown; did you mean 'frontier'"]),
        (["weights=[ema,raw]"], ["weights=['ema', 'raw']", "task=frontier takes several"]),
        (["task._target_=denoiselab.schedules.VPLinear"], ["task._target_=denoiselab.schedules.VPLinear", "Task"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_does_not_belong_to_a_task_is_refused(arguments, says, finished, invoke):
    result = invoke("sample.py", f"ckpt={finished}", *arguments)
    assert result.code == 2, result.err
    assert all(text in result.last for text in says), result.last


def test_a_task_of_another_package(finished, tmp_path, invoke, monkeypatch):
    (tmp_path / "countlab.py").write_text(
        "from dataclasses import dataclass\n"
        "from denoiselab.app.tasks.task import Task, open_checkpoint\n"
        "@dataclass(kw_only=True)\n"
        "class CountParameters(Task):\n"
        "    times: int = 1\n"
        "    def run(self, asked):\n"
        "        model = open_checkpoint(asked).model\n"
        "        print(self.times * sum(p.numel() for p in model.denoiser.parameters()))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DENOISELAB_ALLOW", "countlab")
    given = ["sample.py", f"ckpt={finished}", "task=export", "task._target_=countlab.CountParameters"]
    one, two = (invoke(*given, *more) for more in ([], ["+task.times=2"]))
    assert one.code == two.code == 0, one.err + two.err
    assert int(two.out) == 2 * int(one.out) > 0


def test_samples_are_recorded_with_all_options(finished, tmp_path, invoke):
    out = tmp_path / "out"
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", "sampler.steps=2", "noise=brownian", f"out={out}")
    assert result.code == 0, result.err
    record = json.loads((out / "samples.json").read_text())
    options = {"num_samples": 2, "batch_size": 64, "seed": 0, "guidance": 1.0, "format": "png", "noise": "brownian"}
    assert options.items() <= record.items()
    assert record["sampler"]["steps"] == record["nfe"] == 2
    assert len(record["checkpoint_sha256"]) == 64


def test_programs_are_short():
    assert all(len((ROOT / name).read_text().splitlines()) <= 60 for name in ("sample.py", "train.py"))
