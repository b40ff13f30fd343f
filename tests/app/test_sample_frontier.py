"""Frontiers of checkpoints, and of many on one page."""

import csv
import json
import shutil
import signal
import time

import pytest
import torch

from denoiselab.app.settings import replaced

EIGHT = ["frontier=default", "frontier.samplers=[ddim,ancestral]", "frontier.nfe=[3,4,5,40]", "frontier.num_samples=48"]


def records(directory):
    return json.loads((directory / "frontier.json").read_text())


def of(directory, n):
    return [r for r in records(directory) if r["n"] == n]


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))


def test_a_checkpoint_has_the_cells_of_its_own_training(copy, invoke):
    """The same protocol, so the same hash: nothing is scored again."""
    before = records(copy)
    result = invoke("sample.py", f"ckpt={copy}", "frontier=default")
    assert result.code == 0, result.err
    assert records(copy) == before
    assert "64 images seen" in result.err
    assert f"page: {copy / 'frontier.html'}" in result.out


def test_other_weights_samplers_and_checkpoints_add_cells(copy, invoke):
    before = records(copy)
    result = invoke(
        "sample.py", f"ckpt={copy}", "frontier=default", "frontier.weights=[ema,raw]", "frontier.nfe=[2]",
        "frontier.samplers=[ddim,heun@karras]",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "heun@karras cannot spend exactly 2 network calls; it spends 1." in result.err
    new = {(r["sampler"], r["nfe"], r["weights"]) for r in records(copy)} - {("ddim", 2, "ema"), ("ddim", 3, "ema")}
    assert new == {("ddim", 2, "raw"), ("heun@karras", 1, "ema"), ("heun@karras", 1, "raw")}
    assert "ddim raw" in result.out
    best = torch.load(copy / "checkpoints" / "best.ckpt", weights_only=True)["denoiselab"]
    assert best["images_seen"] == 64
    best["images_seen"] = 32
    torch.save(
        {**torch.load(copy / "checkpoints" / "best.ckpt", weights_only=True), "denoiselab": best}, copy / "x.ckpt"
    )
    out = copy.parent / "elsewhere"
    result = invoke("sample.py", f"ckpt={copy / 'x.ckpt'}", "frontier=default", "frontier.nfe=[2]", f"out={out}")
    assert result.code == 0, result.err
    assert [r["images_seen"] for r in records(out)] == [32]
    assert len(before) < len(records(copy))


def test_what_is_asked_for_replaces_what_refined_the_runs_own(copy, invoke):
    """Budgets of single samplers stored in a run do not add to budgets asked for, nor do facts of a reference."""
    path = copy / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    own = content["denoiselab"]["config"]["evaluation"]
    own |= {"nfe": [2], "extra_nfe": {"ddim": [4]}, "metric_options": {"frechet": {"layer": "features"}}}
    torch.save(content, path)
    others = {r["nfe"] for r in records(copy)}
    assert others == {2, 3}
    assert invoke("sample.py", f"ckpt={copy}", "frontier=default", "frontier.nfe=[5]").code == 0
    assert {r["nfe"] for r in records(copy)} == {2, 3, 5}
    assert invoke("sample.py", f"ckpt={copy}", "frontier=default").code == 0
    assert {r["nfe"] for r in records(copy)} == {2, 3, 4, 5}
    given = ["frontier.nfe=[6]", "frontier.extra_nfe={ddim:[7]}", "frontier.metrics=[frechet]"]
    assert invoke("sample.py", f"ckpt={copy}", "frontier=default", *given).code == 0
    assert {r["nfe"] for r in records(copy)} == {2, 3, 4, 5, 6, 7}


def test_refinements_go_with_what_they_refine():
    evaluation = {
        "nfe": [5], "extra_nfe": {"ddim": [9]}, "reference": "a", "reference_n": 9, "reference_data": "any",
        "metrics": ["frechet", "kernel"], "metric_options": {"frechet": {"a": 1}, "kernel": {"b": 2}},
    }  # fmt: skip
    assert replaced(evaluation, {"seed": 1}) == {**evaluation, "seed": 1}
    assert replaced(evaluation, {"nfe": [2]})["extra_nfe"] == {}
    assert replaced(evaluation, {"nfe": [2], "extra_nfe": {"ddim": [3]}})["extra_nfe"] == {"ddim": [3]}
    assert replaced(evaluation, {"reference": "b"}) == {
        **evaluation, "reference": "b", "reference_n": None, "reference_data": "same",
    }  # fmt: skip
    assert replaced(evaluation, {"metrics": ["kernel"]})["metric_options"] == {"kernel": {"b": 2}}


@pytest.mark.slow
def test_a_kill_after_three_of_eight_cells_costs_none_of_them(finished, copy, tmp_path, invoke, start):
    process = start("sample.py", f"ckpt={copy}", *EIGHT)
    while len(of(copy, 48)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = of(copy, 48)
    assert 3 <= len(killed) < 8
    assert invoke("sample.py", f"ckpt={copy}", *EIGHT).code == 0
    straight = shutil.copytree(finished, tmp_path / "straight", ignore=shutil.ignore_patterns("wandb"))
    assert invoke("sample.py", f"ckpt={straight}", *EIGHT).code == 0
    continued, whole = of(copy, 48), of(straight, 48)
    assert len(whole) == 8

    def timeless(record):
        measured = ("seconds", "seconds_per_1k_images", "peak_memory_mb", "run", "pareto")
        return {key: value for key, value in record.items() if key not in measured}

    assert [r["seconds"] for r in continued[: len(killed)]] == [r["seconds"] for r in killed]  # not computed again
    assert [timeless(r) for r in continued] == [timeless(r) for r in whole]
    assert [r["pareto"] for r in continued] == [r["pareto"] for r in whole]
    assert not list(copy.glob(".frontier.*.tmp"))


def test_many_checkpoints_are_scored_and_shown_together(finished, tmp_path, invoke):
    for name in ("a", "b"):
        shutil.copytree(finished, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("wandb"))
    before = len(records(finished))
    result = invoke("sample.py", f"ckpt={tmp_path}/runs/*", "frontier=default", "frontier.samplers=[euler]")
    assert result.code == 0, result.err
    (joint,) = tmp_path.glob("runs/frontier-*")
    assert f"of 2 run(s): {joint / 'frontiers.html'}" in result.out
    with (joint / "frontiers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records(tmp_path / "runs" / "a")) + len(records(tmp_path / "runs" / "b"))
    assert {row["run"] for row in rows if row["sampler"] == "euler"} == {"a", "b"}
    # The same command again: its own page, beside the runs, fits the pattern too.
    result = invoke("sample.py", f"ckpt={tmp_path}/runs/*", "frontier=default", "frontier.samplers=[euler]")
    assert result.code == 0, result.err
    # A score is Pareto-optimal among those of all runs: both have the same cells, so each cost has one mark at most.
    marks = [row["network_evaluations"] for row in rows if row["pareto"] == "True"]
    assert len(marks) == len(set(marks)) > 0
    # The page of runs that were scored before: the same, and the folder of a former page is no run.
    result = invoke("src/denoiselab/report.py", f"runs=[{tmp_path}/runs/*]", f"out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    assert f"{len(rows)} cells of 2 run(s)" in result.out
    assert len(records(finished)) == before


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("sample.py", ["ckpt=nowhere*", "frontier=default"], "ckpt=nowhere*: nothing fits"),
        ("sample.py", ["ckpt=[]", "frontier=default"], "ckpt=[]"),
        ("sample.py", ["ckpt=[{run},{run}]"], "frontier=default takes several"),
        ("sample.py", ["ckpt={run}/../*"], "a pattern is for frontier=default"),
        ("sample.py", ["ckpt={run}/.."], "it is no run but holds 1; name one"),
        ("sample.py", ["ckpt={run}/..", "frontier=default"], "it is no run but holds 1; name one"),
        ("sample.py", ["ckpt={run}/s*", "frontier=default"], "no checkpoint there"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.samplers=[]"], "frontier.samplers=[]"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.samplers=[dimm]"], "did you mean 'ddim'"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.samplers=[ddim,ddim]"], "frontier.samplers"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.nfe=[0]"], "frontier.nfe"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.num_samples=1"], "frontier.num_samples=1"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.weights=foo"], "frontier.weights=foo"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.guidance=[2]"], "frontier.guidance=[2.0]"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.metrics=[kernel]"], "num_samples"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.smaplers=[ddim]"], "frontier.samplers"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.reference=no.npz"], "frontier.reference=no.npz"),
        ("sample.py", ["ckpt={run}", "frontier=default", "frontier.reference_data=all"], "'same' or 'any'"),
        ("sample.py", ["ckpt={run}", "frontier=default", "out={run}/samples"], "holds no frontier"),
        ("sample.py", ["ckpt={run}", "frontier=default", "num_samples=9"], "frontier takes frontier.num_samples."),
        ("sample.py", ["ckpt={run}", "frontier=default", "sampler.steps=9"], "frontier takes frontier.samplers="),
        ("sample.py", ["ckpt={run}", "frontier=default", "noise=brownian"], "noise=brownian: it is of samples"),
        ("src/denoiselab/report.py", ["runs=[]"], "runs=[]"),
        ("src/denoiselab/report.py", ["runs=[{run}/samples]"], "no frontier.json there"),
        ("src/denoiselab/report.py", ["to=wandb_chart"], "no key here"),
        ("src/denoiselab/report.py", ["to=wandb_reprot"], "wandb_report"),
        ("train.py", ["optimized_metric=frontier/best@1"], "optimized_metric=frontier/best@1"),
        ("train.py", ["optimized_metric=train/loss"], "allowed: frontier/best"),
        ("train.py", ["optimized_metric=frontier/ancestral"], "callbacks.frontier.samplers"),
        ("train.py", ["callbacks.frontier.samplers=[dimm]"], "did you mean 'ddim'"),
        ("train.py", ["callbacks.frontier.every_images=0"], "callbacks.frontier.every_images=0"),
        ("train.py", ["callbacks.preview.sampler=dimm"], "did you mean 'ddim'"),
        ("train.py", ["callbacks.preview.nfe=0"], "callbacks.preview.nfe"),
        ("train.py", ["evaluation.guidance=[2]"], "takes no condition"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_a_sentence(program, arguments, says, finished, tmp_path, invoke, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = records(finished)
    result = invoke(program, *[argument.format(run=finished) for argument in arguments])
    assert result.code == 2
    assert says in result.last
    assert records(finished) == before
