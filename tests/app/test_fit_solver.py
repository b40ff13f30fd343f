"""Solvers fitted to a checkpoint, and the runs that name them."""

import json

import pytest

from denoiselab.app.tasks import fit_solver

SMALL = [
    "task=fit_solver", "sampler.steps=3", "task/method=local_errors", "task.method.num_samples=8",
    "task.method.fine=20", "num_samples=16", "task.fine=20", "iterations=20", "batch_size=8", "accelerator=cpu",
]  # fmt: skip


def test_a_fitted_solver_is_a_file_that_runs_name(invoke, finished, tmp_path, monkeypatch):
    out, again = tmp_path / "solver.json", tmp_path / "other" / "solver.json"
    done = invoke("sample.py", f"ckpt={finished}", *SMALL, f"out={out}")
    assert done.code == 0, done.err
    assert "network calls: " in done.err
    assert "of the gradients; about " in done.err
    record = json.loads(out.read_text())
    assert record["distance_n"] == 8
    assert record["distance"] < record["distance_before"]
    writer, written = fit_solver._Job.writer, []

    def stopping(job, name):
        def write(content):
            writer(job, name)(content)
            written.append(name)
            if written.count("fit") == 2:
                raise RuntimeError("killed")

        return write

    with monkeypatch.context() as patch:
        patch.setattr(fit_solver._Job, "writer", stopping)
        assert invoke("sample.py", f"ckpt={finished}", *SMALL, f"out={again}").code != 0
    assert not again.exists()
    done = invoke("sample.py", f"ckpt={finished}", *SMALL, f"out={again}")  # as after a kill
    assert done.code == 0, done.err
    assert "goes on from where it was stopped" in done.err
    numbers = ("lam", "asked", "coefficients", "distance", "fitted_distance", "iteration", "weights_sha256")
    assert [json.loads(again.read_text())[name] for name in numbers] == [record[name] for name in numbers]
    assert [path.name for path in again.parent.iterdir()] == ["solver.json"]

    named = ["sampler=fitted", f"sampler.path={out}", "num_samples=2"]
    done = invoke("sample.py", f"ckpt={finished}", *named, f"out={tmp_path / 'samples'}")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["nfe"] == 3
    asked = ["task=frontier", f"task.samplers=[ddim,fitted@{out},ddim@{out}]", "task.nfe=[2,5]", "task.num_samples=16"]
    done = invoke("sample.py", f"ckpt={finished}", *asked, f"out={tmp_path / 'frontier'}")
    assert done.code == 0, done.err
    records = json.loads((tmp_path / "frontier" / "frontier.json").read_text())
    cells = {(record["sampler"], record["nfe"]) for record in records}
    assert {("fitted@solver", 3), ("ddim", 2), ("ddim", 5), ("ddim@solver", 5)} <= cells
    assert sum(sampler == "fitted@solver" for sampler, _ in cells) == 1
    for given, words in (
        ([*named, "weights=raw"], "it was fitted to other weights"),
        (["task=frontier", f"task.samplers=[fitted@{out}]", "task.nfe=[3]", "task.guidance=[2]"], "guidance"),
        (["task=frontier", "task.samplers=[fitted]", "task.nfe=[3]"], "fitted takes a file"),
        (["task=frontier", "task.samplers=[fitted@karras]", "task.nfe=[3]"], "fitted takes a file"),
    ):
        done = invoke("sample.py", f"ckpt={finished}", *given, f"out={tmp_path / 'refused'}")
        assert done.code == 2, done.err
        assert words in done.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sampler=ancestral"], "deterministic"), (["sampler=heun"], "one call a step"), (["out=a.txt"], ".json"),
        (["task.fine=3"], "fine=3"), (["rate=0"], "rate=0"), (["num_samples=1"], "num_samples=1"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(given, words, invoke, finished):
    done = invoke("sample.py", f"ckpt={finished}", *SMALL, *given)
    assert done.code == 2, done.err
    assert words in done.err
