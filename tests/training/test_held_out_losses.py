"""The loss on held-out data in training: its curves, the profile at the end, sweeps and early stopping."""

import csv
import json

import pytest
from conftest import QUICK

EVERY = ["callbacks.held_out.every_images=32", "callbacks.held_out.num_samples=8", "evaluation.nfe=[2]"]


def test_a_run_logs_a_curve_a_level_and_ends_with_a_profile(tmp_path, invoke):
    run = tmp_path / "run"
    result = invoke(
        "train.py", *QUICK, *EVERY, f"paths.run_dir={run}", "optimized_metric=held_out/loss",
        "callbacks.loss_log.every_images=32",
    )  # fmt: skip
    assert result.code == 0, result.err
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("held_out/loss")]
    assert [row["images_seen"] for row in rows] == ["32", "64"]
    names = ["held_out/loss", *(f"held_out/loss_lam{lam:+d}" for lam in range(-4, 4))]
    assert all(float(row[name]) > 0 for row in rows for name in names)
    profile = json.loads((run / "held_out_loss.json").read_text())
    assert [level["lam"] for level in profile["levels"]] == [*range(-4, 4)]
    assert profile["loss"] == pytest.approx(sum(level["loss"] for level in profile["levels"]) / 8)
    assert all(level["standard_error"] > 0 for level in [profile, *profile["levels"]])
    assert (profile["n"], profile["weights"], profile["split"], profile["images_seen"]) == (8, "ema", "held_out", 64)
    assert profile["loss"] == pytest.approx(float(rows[-1]["held_out/loss"]))
    assert (
        f'"loss": {json.dumps([level["loss"] for level in profile["levels"]])}' in (run / "frontier.html").read_text()
    )
    assert f"loss by level: {run / 'held_out_loss.json'}" in result.out


def test_early_stopping_monitors_it(tmp_path, invoke):
    run = tmp_path / "run"
    result = invoke(
        "train.py", *QUICK, *EVERY, f"paths.run_dir={run}", "callbacks=early_stopping", "max_images=320",
        "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100",
    )  # fmt: skip
    assert result.code == 0, result.err
    with (run / "metrics.csv").open() as file:
        seen = [int(row["images_seen"]) for row in csv.DictReader(file) if row.get("held_out/loss")]
    assert seen == [32, 64]  # the second is no better than the first by 100


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["monitor=train/loss"], "monitor=train/loss: the run does not log it; allowed: held_out/loss, held_out/loss_"),
        (["check_on_train_epoch_end=null"], "check_on_train_epoch_end=None: a training is one epoch"),
    ],
)
def test_a_stop_that_cannot_work_is_refused(tmp_path, invoke, given, said):
    options = [f"callbacks.early_stopping.{one}" for one in given]
    result = invoke(
        "train.py", *QUICK, *EVERY, f"paths.run_dir={tmp_path / 'run'}", "callbacks=early_stopping", *options
    )
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "run").exists()
