"""What W&B is told of a frontier, read back from the offline file by W&B's own reader."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from denoiselab.app.commands.report import wandb_report
from denoiselab.evaluation.report import tables
from denoiselab.evaluation.report.verdicts import VERDICTS
from denoiselab.files import write_json
from denoiselab.training import wandb_verdicts
from denoiselab.training.frontier_entries import best
from denoiselab.training.loggers import WandB
from denoiselab.training.wandb_frontier import CHART, chart_spec, send_frontier

METRIC = "fd_classifier8"


def told(directory):
    """Records of all offline runs of a directory, by type."""
    out = {}
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60)
        for line in done.stdout.splitlines():
            record = json.loads(line)
            out.setdefault(record["type"], []).append(record[record["type"]])
    return out


@pytest.fixture(scope="module")
def offline(finished):
    return told(finished)


@pytest.fixture(scope="module")
def records(finished):
    return json.loads((finished / "frontier.json").read_text())


def test_metric_definitions(offline):
    defined = {m.get("name") or m["glob_name"]: m for m in offline["metric"]}
    assert defined["frontier/nfe"]["options"]["hidden"] is True
    assert defined["frontier/*"]["step_metric"] == "frontier/nfe"
    assert defined["frontier/*"]["summary"] == {"min": True}
    for name in ("train/*", "score/*", "preview/*"):
        assert defined[name]["step_metric"] == "images_seen"


def test_the_table_has_a_row_a_cell_and_stands_in_the_summary(offline, finished, records):
    items = [history["item"] for history in offline["history"]]
    (item,) = [item for item in items if f"{CHART}_table.path" in item]
    (path,) = finished.glob(f"wandb/offline-run-*/files/{item[f'{CHART}_table.path']}")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(r["sampler"], r["nfe"], r["score"], r["cell"]) for r in rows] == [
        (r["sampler"], r["nfe"], r["score"], r["cell"]) for r in records
    ]
    # The chart of all selected runs asks the summary for the table: it must not be replaced by a minimum.
    summary = {}
    for entry in offline["summary"]:
        summary |= entry["update"]
    assert summary[f"{CHART}_table._type"] == "table-file"
    (chart,) = [c["update"] for c in offline["config"] if f"_wandb.visualize.{CHART}" in c["update"]]
    panel = chart[f"_wandb.visualize.{CHART}"]["panel_config"]
    assert panel["panelDefId"] == "wandb/line/v0"
    assert f'"{CHART}_table"' in json.dumps(panel["userQuery"])
    for record in records:
        assert summary[f"{METRIC}/ddim@{record['nfe']}"] == record["score"]
    assert summary[f"{METRIC}_best"] == min(r["score"] for r in records)
    assert summary[f"{METRIC}_best_nfe2"] == next(r["score"] for r in records if r["nfe"] == 2)


def test_scalars_over_nfe_and_scores_over_images(offline, records):
    items = [history["item"] for history in offline["history"]]
    over_nfe = {i["frontier/nfe"]: i[f"frontier/{METRIC}/ddim"] for i in items if "frontier/nfe" in i}
    assert over_nfe == {r["nfe"]: r["score"] for r in records}
    in_training = [i for i in items if f"score/{METRIC}/ddim@2" in i]
    assert [i["images_seen"] for i in in_training] == [64]


def test_pictures_and_artifacts(offline, finished):
    items = [history["item"] for history in offline["history"]]
    pictures = {value for item in items for key, value in item.items() if str(value).endswith(".png")}
    pictures |= {name for item in items for value in item.values() if isinstance(value, list) for name in value}
    for key in ("samples/ddim", "samples/plot", "preview/samples"):
        assert any(f"{key}_" in str(picture) for picture in pictures), (key, pictures)
    kinds = {a["type"]: a for a in offline["artifact"]}
    contents = {kind: [c["path"] for c in a["manifest"]["contents"]] for kind, a in kinds.items()}
    assert contents["checkpoint"] == ["best.ckpt", "last.ckpt"]
    assert [name[:20] for name in contents["reference"]] == ["reference-classifier"]
    assert contents["frontier"] == [
        "frontier.csv", "frontier.html", "frontier.json", "frontier.png", "verdicts.json",
    ]  # fmt: skip
    # What waits to be synced lies with the run.
    places = [c["local_path"] for a in offline["artifact"] for c in a["manifest"]["contents"]]
    assert all(place.startswith(str(finished / "wandb")) for place in places)


def test_an_evaluation_is_a_run_in_the_group_of_its_training(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    own = json.loads((copy / "run.json").read_text())["wandb_id"]
    for nfe in (2, 4):
        arguments = ["task=frontier", f"task.nfe=[{nfe}]", "logger=wandb", "logger.wandb.mode=offline"]
        result = invoke("sample.py", f"ckpt={copy}", *arguments)
        assert result.code == 0, result.err
    runs = told(copy)["run"]
    digest = hashlib.sha256((copy / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()[:8]
    wanted = (f"{own}-eval-{digest}", own, "evaluation")
    assert {(r["run_id"], r["run_group"], r["job_type"]) for r in runs} == {wanted}
    assert len(runs) >= 2  # two segments of one run, which `wandb sync` joins by their id


def test_verdicts_are_a_table_and_a_chart_of_differences_with_intervals(tmp_path):
    cells = [("a", 5, 9.0), ("b", 5, 7.0), ("c", 5, 7.5)]
    group = {
        "metric": "fid", "primary": True, "n": 1000, "at": "n", "level": 0.1, "trainings": 1,
        "cells": [{"cell": name * 8, "series": name, "nfe": nfe, "value": value} for name, nfe, value in cells],
        "pairs": [
            {"a": 0, "b": 1, "half_width": 2.5, "paired": True, "verdict": "undecided"},
            {"a": 0, "b": 2, "half_width": 0.4, "paired": True, "verdict": "worse"},
            {"a": 1, "b": 2, "half_width": 0.75, "paired": False, "verdict": "undecided"},
        ],
        "budgets": [{"nfe": 5, "best": 1, "ties": [2], "surely_worse": [0]}],
    }  # fmt: skip
    secondary = {**group, "metric": "kid", "primary": False}
    write_json(tmp_path / VERDICTS, {"level": 0.05, "groups": [group, secondary]})
    common = {"metric": "fid", "n": 1000, "weights": "ema", "guidance": 1, "reference_sha256": "", "error": None}
    records = [{**common, "sampler": name, "nfe": nfe, "score": value} for name, nfe, value in cells]
    for chart, preset in ((None, "wandb/bar/v0"), ("team/frontier", "team/frontier_differences")):
        name = preset.replace("/", "_")
        logger = WandB(mode="offline", artifacts=(), chart=chart).open(tmp_path / name, name, name, {})
        send_frontier(logger, records, tmp_path)
        logger.close(0)
        offline = told(tmp_path / name)
        key = wandb_verdicts.VERDICTS
        (item,) = [h["item"] for h in offline["history"] if f"{key}_table.path" in h["item"]]
        (path,) = (tmp_path / name).glob(f"wandb/offline-run-*/files/{item[f'{key}_table.path']}")
        table = json.loads(path.read_text())
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        assert [(r["label"], r["verdict"], r["difference"], r["low"], r["high"]) for r in rows] == [
            ("NFE 5: b", "best", 0.0, 0.0, 0.0),
            ("NFE 5: c", "tie", 0.5, -0.25, 1.25),
            ("NFE 5: a", "surely worse", 2.0, -0.5, 4.5),
        ]
        assert [r["paired"] for r in rows] == [None, False, True]
        assert [r["than"] for r in rows] == [None, None, "c"]
        assert {(r["level"], r["trainings"]) for r in rows} == {(0.1, 1)}
        (told_chart,) = [c["update"] for c in offline["config"] if f"_wandb.visualize.{key}" in c["update"]]
        assert told_chart[f"_wandb.visualize.{key}"]["panel_config"]["panelDefId"] == preset


def test_a_run_without_verdicts_has_no_table_of_them(tmp_path):
    assert wandb_verdicts.rows(tmp_path) == []
    (tmp_path / VERDICTS).write_text("{")
    assert wandb_verdicts.rows(tmp_path) == []


def test_the_chart_reads_the_table_and_all_runs():
    spec = chart_spec()
    assert spec["data"] == {"name": "wandb"}
    text = json.dumps(spec)
    for field in ("x", "y", "stroke"):
        assert f"${{field:{field}}}" in text
    assert "datum.name" in text


SERIES = {"metric": "fid", "n": 50000, "weights": "ema", "guidance": 1.0, "sampler": "ddim"}


def numbers(found):
    return {key: value for key, value in found.items() if not isinstance(value, str)}


def test_names_of_the_best_are_fit_to_sort_by():
    rows = [("a", 5, 9.0), ("b", 10, 3.0), ("a", 20, 4.0), ("c", 35.5, 1.0), ("c", 5, None)]
    found = best([{**SERIES, "sampler": name, "nfe": nfe, "score": score} for name, nfe, score in rows])
    assert found == {
        "fid50k_best": 1.0, "fid50k_best_nfe5": 9.0, "fid50k_best_nfe10": 3.0, "fid50k_best_nfe20": 3.0,
        "fid50k_best_sampler": "c@35.5", "fid50k_best_nfe5_sampler": "a@5", "fid50k_best_nfe10_sampler": "b@10",
        "fid50k_best_nfe20_sampler": "b@10",
    }  # fmt: skip
    assert all(name.isidentifier() for name in found)


def test_names_of_metrics_and_numbers_of_samples_do_not_run_together():
    keys = {
        ("fid", 50_000): "fid50k", ("fid", 130): "fid130", ("fd_classifier_infinity", 500): "fd_classifier_infinity500",
        ("fid_64", 130): "fid_64_n130", ("fid_64", 50_000): "fid_64_n50k", ("fid_641", 30): "fid_641_n30",
        ("sliced_w1", 2000): "sliced_w1_n2k", ("fd_dinov2", 50_000): "fd_dinov2_n50k",
    }  # fmt: skip
    for (metric, n), key in keys.items():
        record = {**SERIES, "metric": metric, "n": n, "nfe": 5, "score": 1.0}
        assert numbers(best([record])) == {f"{key}_best": 1.0, f"{key}_best_nfe5": 1.0}
        assert tables.metric_key(record) == key


def test_a_report_shows_the_chart_the_training_and_the_samples():
    made = wandb_report("team", "project", "team/frontier", "Title")
    grids = [block for block in made.blocks if hasattr(block, "panels")]
    panels = [panel for grid in grids for panel in grid.panels]
    chart, differences = panels[:2]
    assert differences.chart_name == "team/frontier_differences"
    assert differences.query["summaryTable"] == {"tableKey": f"{wandb_verdicts.VERDICTS}_table"}
    assert (chart.chart_name, chart.query["summaryTable"]) == ("team/frontier", {"tableKey": f"{CHART}_table"})
    assert {type(panel).__name__ for panel in panels} >= {"CustomChart", "LinePlot", "MediaBrowser", "RunComparer"}
    assert {runset.entity for grid in grids for runset in grid.runsets} == {"team"}


def test_the_preset_is_registered_by_a_command(invoke, monkeypatch, tmp_path):
    import wandb

    calls = []

    class Api:
        default_entity = "me"

        def create_custom_chart(self, **given):
            calls.append(given)
            return f"{given['entity']}/{given['name']}"

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    result = invoke("src/denoiselab/report.py", "to=wandb_chart")
    assert result.code == 0, result.err
    assert "logger.wandb.chart=me/frontier" in result.out
    assert [(c["entity"], c["name"], c["spec_type"], c["access"]) for c in calls] == [
        ("me", "frontier", "vega2", "private"), ("me", "frontier_differences", "vega2", "private"),
    ]  # fmt: skip
    assert [c["spec"] for c in calls] == [chart_spec(), wandb_verdicts.chart_spec()]
    used = json.dumps(calls[1]["spec"])
    assert all(f"${{field:{field}}}" in used for field in wandb_verdicts.FIELDS)
    assert {"low", "high", "verdict"} <= {*wandb_verdicts.COLUMNS}


def test_where_more_is_better_the_largest_is_the_best(tmp_path):
    scores = {"is": {"value": 0.0, "lower_is_better": False}}
    common = {"metric": "is", "n": 1000, "scores": scores, "sampler": "ddim", "weights": "ema", "guidance": 1}
    common |= {"reference_sha256": "", "error": None}
    rows = [{**common, "nfe": nfe, "score": score} for nfe, score in ((5, 3.0), (10, 9.0), (20, 4.0))]
    logger = WandB(mode="offline", artifacts=()).open(tmp_path, "more", "more", {})
    send_frontier(logger, rows, tmp_path)
    logger.close(0)
    offline = told(tmp_path)
    defined = {m.get("name") or m["glob_name"]: m for m in offline["metric"]}
    assert defined["frontier/is1k/ddim"]["summary"] == {"max": True}
    summary = {}
    for entry in offline["summary"]:
        summary |= entry["update"]
    assert {key: value for key, value in summary.items() if "frontier/is1k" in key} == {
        "frontier/is1k/ddim": {"max": 9}
    }
    assert numbers(best(rows)) == {
        "is1k_best": 9.0,
        "is1k_best_nfe5": 3.0,
        "is1k_best_nfe10": 9.0,
        "is1k_best_nfe20": 9.0,
    }
