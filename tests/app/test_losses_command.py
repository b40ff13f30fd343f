"""`sample.py task=losses`: the loss of a checkpoint by noise level, in a file and on the page of its run."""

import json
import re
import shutil

import pytest

from denoiselab.evaluation.report.page import page_run, write_page
from denoiselab.evaluation.report.profiles import profiles


def content(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])


def test_a_profile_of_a_checkpoint_is_the_runs_own_and_is_on_its_page(finished, tmp_path, invoke):
    run = shutil.copytree(finished, tmp_path / "run")
    own = json.loads((run / "held_out_loss.json").read_text())
    for arguments in ([], ["weights=raw", "split=train", "batch_size=3", f"out={run}/losses/other"]):
        result = invoke("sample.py", f"ckpt={run}", "task=losses", f"num_samples={own['n']}", *arguments)
        assert result.code == 0, result.err
    (first,) = run.glob(f"losses/held_out_ema_seed0_n{own['n']}_*/losses.json")
    found, other = json.loads(first.read_text()), json.loads((run / "losses" / "other" / "losses.json").read_text())
    assert found["loss"] == pytest.approx(own["loss"], rel=1e-5)
    assert found["standard_error"] == pytest.approx(own["standard_error"], rel=1e-4)
    assert (other["split"], other["weights"], len(other["levels"])) == ("train", "raw", 8)
    assert f"n = {own['n']} of train, weights raw: {run / 'losses' / 'other'}" in result.out
    (run / "losses" / "damaged").mkdir()
    (run / "losses" / "damaged" / "losses.json").write_text(
        '{"levels": [{"lam": NaN, "loss": 1, "standard_error": 0}]}'
    )
    write_page(tmp_path / "page.html", [page_run("mine", run)])
    lines = content(tmp_path / "page.html")["profiles"]
    assert [line["name"] for line in lines] == ["ema · held out", "ema · held out", "raw · train"]
    assert lines[0]["loss"] == [level["loss"] for level in own["levels"]]
    assert all(error > 0 for line in lines for error in line["error"])
    assert f"python -m denoiselab.report 'runs=[{run}]'" in result.out
    # The first files of a training had no standard errors.
    (run / "held_out_loss.json").write_text(
        '{"held_out/loss": 0.5, "held_out/loss_lam-4": 0.75, "held_out/loss_lam+1": 0.25}'
    )
    (first, *_) = profiles({"mine": run})
    assert (first["lam"], first["loss"], first["error"]) == ([-4.0, 1.0], [0.75, 0.25], [0.0, 0.0])
    assert first["name"] == "end of training · held out"


def test_more_samples_than_there_are_is_refused(finished, tmp_path, invoke):
    result = invoke("sample.py", f"ckpt={finished}", "task=losses", "num_samples=9999", f"out={tmp_path / 'out'}")
    assert result.code == 2
    assert "task.num_samples=9999" in result.last
    assert not (tmp_path / "out").exists()
