"""`evaluation.error_split` and `task.error_split`, as a user gives them."""

import json

import pytest
from conftest import QUICK

SPLIT = ["evaluation.error_split=4", "evaluation.fine_nfe=12", "evaluation.nfe=[2,3]", "evaluation.num_samples=8"]


def test_a_run_ends_with_its_split_and_a_checkpoint_has_more(tmp_path, invoke):
    run = tmp_path / "run"
    result = invoke("train.py", *QUICK, *SPLIT, f"paths.run_dir={run}", "evaluation.samplers=[ddim,ancestral]")
    assert result.code == 0, result.err
    assert "best ODE cell, NFE" in result.out
    assert f"error split: {run / 'error_split.json'}" in result.out
    (group,) = json.loads((run / "error_split.json").read_text())["groups"]
    assert [(c["sampler"], c["nfe"], "distance" in c) for c in group["cells"]] == [
        ("ddim", 2, True), ("ddim", 3, True), ("ancestral", 2, False), ("ancestral", 3, False),
    ]  # fmt: skip
    assert [(one["sampler"], one["nfe"]) for one in group["fine"]] == [("unipc", 12), ("heun", 11)]
    assert {one["cell"] for one in group["cells"]} == {
        r["cell"] for r in json.loads((run / "frontier.json").read_text())[-4:]
    }
    assert (run / "error_split.png").is_file()
    more = invoke("sample.py", f"ckpt={run}", "task=frontier", "task.samplers=[heun]", "task.nfe=[3]")
    assert more.code == 0, more.err  # the run's own options hold
    first = json.loads((run / "error_split.json").read_text())["groups"][0]
    assert [(c["sampler"], c["nfe"]) for c in first["cells"]] == [("heun", 3)]
    assert first["fine"] == group["fine"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["evaluation.fine_samplers=[ancestral,heun]"], "fine_samplers=[ancestral, heun]: name two ODE samplers"),
        (["evaluation.fine_samplers=[unipc]"], "fine_samplers=[unipc]: name two ODE samplers of fixed steps"),
        (["evaluation.fine_samplers=[unipc,hoin]"], "sampler=hoin: unknown"),
        (["evaluation.samplers=[ancestral]"], "none of evaluation.samplers solves the model's ODE"),
        (["evaluation.error_split=-1"], "evaluation.error_split=-1"),
    ],
)
def test_what_cannot_be_split_is_refused_before_training(tmp_path, invoke, options, says):
    result = invoke("train.py", *QUICK, *SPLIT, f"paths.run_dir={tmp_path / 'run'}", *options)
    assert result.code == 2
    assert says in result.last
    assert not (tmp_path / "run").exists()
