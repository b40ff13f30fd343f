"""Reports of many runs: what trainings with other seeds say together, and what a user is told who names no runs."""

import json

import pytest
import yaml

from denoiselab.app.commands.report import directories
from denoiselab.app.runs import panel
from denoiselab.errors import BadInput

CELL = {
    "sampler": "ddim", "guided": "", "nfe": 5, "metric": "fid", "n": 256, "mean": 3.0, "interval": [2.0, 4.0],
    "training_sd": 0.1, "draw_sd": None,
}  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Six runs: two methods with two seeds each, one with two of which no cell is shared, and one by itself."""

    def make(name, seed, *options, **config):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "name": name, **config}))
        start = {"overrides": [f"name={name}", "trainer=cpu", *options, f"seed={seed}"]}
        (tmp_path / name / "run.json").write_text(json.dumps({"starts": [start]}))
        return name, tmp_path / name

    def of(stores, level):
        shared = {
            "trainings": len(stores),
            "level": level,
            "cells": [CELL],
            "differences": [],
            "left_out": [],
        }
        return None if stores[0].directory.name.startswith("c") else shared

    monkeypatch.setattr(panel, "panel_of", of)
    long = [f"data.option_{number}=something" for number in range(9)]
    return dict(
        [make(f"a{seed}", seed, "method=edm", method="edm") for seed in (1, 0)]
        + [make(f"b{seed}", seed, *long, method="b") for seed in (0, 1)]
        + [make(f"c{seed}", seed, method="c") for seed in (0, 1)]
        + [make("d0", 0, method="d")]
    )


def test_panels_are_told_apart_by_the_options_that_their_runs_share(runs):
    found = panel.panels(runs)
    assert [(one["what"], one["runs"]) for one in found] == [
        ("method=edm", ["a0", "a1"]),
        ("data.option_0=something data.option_1=something ...", ["b0", "b1"]),
    ]
    lines = panel.table(found).splitlines()
    assert lines[0] == "trainings that differ by their seed, 95% t intervals over trainings"
    assert lines[2].split() == [
        *["method=edm", "(seed", "0,", "1)", "ddim@5", "fid", "256", "3.00", "[2.00,", "4.00]", "0.10"]
    ]
    assert panel.table(found[:1]).splitlines()[0] == "2 trainings (seed 0, 1), 95% t intervals over trainings"
    assert panel.table([]) == ""


def test_seeds_without_a_common_cell_are_not_called_single_trainings(runs):
    assert panel.alone(runs, panel.panels(runs)) == [
        "c0, c1: differ by their seed, but have no cell of one protocol and n in common",
        "one training each, so differences between them are not apart from those between seeds of training: d0",
    ]


def test_runs_one_folder_below_are_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "digits" / "run").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"^runs=logs/digits: no frontier.json there; name directories of scored runs"):
        directories(["logs/digits"])
    (tmp_path / "logs" / "digits" / "run" / "frontier.json").write_text("[]")
    for asked, instead in (("logs/digits", "logs/digits/*"), ("logs/*", "logs/*/*")):
        with pytest.raises(BadInput, match="but in folders below; write 'runs=") as refused:
            directories([asked])
        assert f"[{instead}]" in str(refused.value).replace('"', "")
    assert [*map(str, directories(["logs/*/*"]))] == ["logs/digits/run"]
