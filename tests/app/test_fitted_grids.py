"""Grids fitted to a checkpoint, and the runs that name them."""

import json
import re
import shlex

import pytest

SMALL = ["sampler.steps=4", "task.method.num_samples=8", "task.method.fine=20", "accelerator=cpu"]


def test_a_fitted_grid_is_a_file_that_sampling_and_the_frontier_take(invoke, finished, tmp_path):
    for kind in ("local_errors", "nearest_end"):
        out = tmp_path / f"{kind}.json"
        extra = ["task.method.evaluations=20"] if kind == "nearest_end" else []
        done = invoke(
            "sample.py", f"ckpt={finished}", "task=fit_grid", f"task/method={kind}", f"out={out}", *SMALL, *extra
        )
        assert done.code == 0, done.err
        assert str(out) in done.out
        record = json.loads(out.read_text())
        assert len(record["lam"]) == 4
        assert record["sampler"]["steps"] == 4
        assert len(record["checkpoint_sha256"]) == 64
        assert record["fitted_distance"] <= record["fitted_distance_before"]
        assert f"{record['distance']:.4g}, {record['distance_before']:.4g} on the" in " ".join(done.out.split())
        assert (record["chosen"] == kind) != (f"The file holds the grid {record['chosen']}" in done.out)
    out = tmp_path / "local_errors.json"  # the nearest may be the sampler's own
    given = ["spacing@sampler.spacing=from_file", f"sampler.spacing.path={out}", "sampler.steps=4"]
    done = invoke("sample.py", f"ckpt={finished}", *given, "num_samples=2", f"out={tmp_path / 'samples'}")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["nfe"] == 4
    asked = [f"task.samplers=[ddim,ddim@karras,ddim@{out}]", "task.nfe=[4]", "task.num_samples=16"]
    done = invoke("sample.py", f"ckpt={finished}", "task=frontier", *asked, f"out={tmp_path / 'frontier'}")
    assert done.code == 0, done.err
    records = json.loads((tmp_path / "frontier" / "frontier.json").read_text())
    assert {record["sampler"] for record in records} == {"ddim", "ddim@karras", f"ddim@{out.stem}"}
    assert len({record["score"] for record in records}) == 3


@pytest.mark.parametrize(
    ("end", "calls"), [("sampler.spacing.to_clean=false", 4), ("spacing@sampler.spacing=denoise_to_zero", 5)]
)
def test_the_options_that_are_printed_end_the_run_as_it_was_fitted(end, calls, invoke, finished, tmp_path):
    out = tmp_path / "grid.json"
    done = invoke(
        "sample.py", f"ckpt={finished}", "task=fit_grid", "task/method=local_errors", f"out={out}", *SMALL, end
    )
    assert done.code == 0, done.err
    (options,) = re.findall(r"use, with this sampler: (.*)", done.out)
    folder = tmp_path / "samples"
    done = invoke("sample.py", f"ckpt={finished}", *shlex.split(options), "num_samples=2", f"out={folder}")
    assert done.code == 0, done.err
    told = json.loads((folder / "samples.json").read_text())
    assert told["nfe"] == calls
    assert len(json.loads(out.read_text())["lam"]) == 5


def test_analytic_dpm_measures_the_model_once(invoke, finished, tmp_path):
    asked = ["task=frontier", "task.samplers=[analytic_dpm,ancestral]", "task.nfe=[4]"]
    folder, written = tmp_path / "scored", 0
    for number in range(2):
        done = invoke("sample.py", f"ckpt={finished}", *asked, f"task.num_samples={16 + number}", f"out={folder}")
        assert done.code == 0, done.err
        (path,) = (folder / "moments").iterdir()
        if number:
            assert path.stat().st_mtime_ns == written
        written = path.stat().st_mtime_ns
    moments = json.loads(path.read_text())
    assert len(moments["lam"]) == len(moments["error"]) == 64
    whole = path.read_text()
    path.write_text(whole.replace(str(moments["error"][5]), "0.5"))  # damaged: measured anew
    again = invoke("sample.py", f"ckpt={finished}", *asked, "task.num_samples=18", f"out={folder}")
    assert again.code == 0, again.err
    assert path.read_text() == whole
    records = json.loads((folder / "frontier.json").read_text())
    assert {r["sampler"]: "moments_sha256" in r["settings"] for r in records} == {
        "analytic_dpm": True,
        "ancestral": False,
    }


def test_what_cannot_be_fitted_is_refused(invoke, finished, tmp_path):
    taken = tmp_path / "taken.json"
    taken.write_text("")
    for given, words in (
        (["sampler=ancestral"], ["deterministic"]),
        ([f"out={taken}"], ["exists already"]),
        ([f"out={tmp_path / 'grid.txt'}"], [".json"]),
        (["sampler.steps=9"], ["steps=9", "at most fine / 4"]),
        (["task.method.fine=3"], ["fine=3", "at least 16"]),
    ):
        done = invoke("sample.py", f"ckpt={finished}", "task=fit_grid", "task/method=local_errors", *SMALL, *given)
        assert done.code == 2, done.err
        assert all(word in done.err for word in words), done.err
    assert taken.read_text() == ""
