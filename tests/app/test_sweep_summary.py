"""A sweep is looked at later, from the records of its jobs alone: `python -m denoiselab.report sweep_dir=...`."""

import csv
import json
from dataclasses import replace

import pytest
from PIL import Image

from denoiselab.app.runs import names
from denoiselab.app.sweeps.records import Job, Sweep, alive, group_of
from denoiselab.app.sweeps.results import recorded
from denoiselab.app.sweeps.summary import commands, ranked
from denoiselab.app.sweeps.table import _id_of
from denoiselab.errors import BadInput

REPORT = "src/denoiselab/report.py"
TIMES = {"started": "2026-11-30T10:00:00+00:00", "ended": "2026-11-30T10:01:05+00:00"}
CELL = {"sampler": "ddim", "nfe": 10, "weights": "ema", "guidance": None}


def write(folder, *jobs, swept=("optimizer.lr",), launcher="BasicLauncher"):
    """A sweep whose jobs are given as (overrides, result); None for one that has not started."""
    planned = {number: tuple(overrides) for number, (overrides, _) in enumerate(jobs)}
    words = ("train.py", "-m", "optimizer.lr=1e-4,1e-3")
    sweep = Sweep(folder, "x-1", launcher, swept, "frontier/best", words, planned)
    sweep.write()
    for number, (overrides, result) in enumerate(jobs):
        if result is not None:
            job = Job(number, folder / str(number), tuple(overrides), **{**TIMES, "metric": "frontier/best", **result})
            job.write()
    return Sweep.read(folder)


@pytest.fixture
def sweep(tmp_path):
    done = {"status": "done", "cell": CELL, "n": 1000, "images_seen": 51200}
    jobs = [
        (["optimizer.lr=1e-4", "batch_size=64"], {**done, "value": 12.5}),
        (["optimizer.lr=3e-4", "batch_size=64"], {"status": "failed", "error": "out of memory; batch_size=32."}),
        (["optimizer.lr=1e-3", "batch_size=64"], {**done, "value": 11.25}),
        (["optimizer.lr=3e-3", "batch_size=64"], {"status": "pruned", "value": 3.0, "error": "worse than the median."}),
        (["optimizer.lr=1e-2", "batch_size=64"], None),
    ]
    return write(tmp_path / "sweep", *jobs)


def test_the_report_of_a_sweep(sweep, invoke):
    """Sorted, the best on top; of the options only the swept one; what is not done with its reason."""
    result = invoke(REPORT, f"sweep_dir={sweep.directory}")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["job", "optimizer.lr", "frontier/best", "by", "time", "status"]
    assert [text.split()[0] for text in lines[1:6]] == ["2", "0", "1", "3", "4"]  # a pruned value is of less training
    assert lines[1].split() == ["2", "1e-3", "11.25", "ddim@10", "ema", "1:05", "done"]
    assert lines[6] == "best: optimizer.lr=1e-3: frontier/best 11.25 by ddim@10 ema (job 2)"
    assert "job 1 is failed (optimizer.lr=3e-4): out of memory; batch_size=32." in lines
    assert "job 3 is pruned (optimizer.lr=3e-3): worse than the median." in lines
    assert "job 4 is waiting (optimizer.lr=1e-2)" in lines
    with (sweep.directory / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["rank"] for row in rows] == ["2", "", "1", "", ""]
    assert rows[1]["error"] == "out of memory; batch_size=32."
    assert Image.open(sweep.directory / "sweep.png").size[0] > 400
    page = (sweep.directory / "sweep.html").read_text()
    content = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    assert content["headline"] == lines[6]
    assert content["counts"] == "5 jobs: 2 done, 1 failed, 1 pruned, 1 waiting; 4:20 of job time"
    assert [axis["name"] for axis in content["axes"]] == ["optimizer.lr", "frontier/best"]


def test_a_sweep_that_goes_on_keeps_its_id(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISELAB_RUN_ID", "new")
    assert _id_of(sweep.directory) == "x-1"
    assert _id_of(tmp_path / "none") == "new"


def test_its_commands(sweep):
    again, resume = commands(sweep, ranked(sweep))
    assert again == f"python sample.py ckpt={sweep.directory / '2'}"
    assert resume == f"python train.py -m optimizer.lr=1e-4,1e-3 hydra.sweep.dir={sweep.directory}"


def test_a_queue_goes_on_with_the_folders_of_its_configurations(tmp_path):
    found = write(tmp_path / "a sweep", (["network=mine"], None), launcher="processes")
    place = f"'sweep.resume={found.directory}'"
    assert commands(found, ranked(found)) == [f"python train.py -m {place}"]
    found = replace(found, options={"places": ["/my/conf"]})
    assert commands(found, ranked(found)) == [f"python train.py -m 'hydra.searchpath=[/my/conf]' {place}"]


def test_to_another_folder(sweep, invoke, tmp_path):
    (sweep.directory / "2" / "frontier.html").write_text("")
    result = invoke(REPORT, f"sweep_dir={sweep.directory}", f"out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sweep.csv", "sweep.html", "sweep.png"}
    assert '"link": "../sweep/2/frontier.html"' in (tmp_path / "out" / "sweep.html").read_text()
    assert not (sweep.directory / "sweep.html").exists()


def test_of_jobs_none_of_which_is_done(tmp_path, invoke):
    write(tmp_path / "s", (["seed=0"], {"status": "failed", "error": "<b>no</b> data."}), swept=("seed",))
    result = invoke(REPORT, f"sweep_dir={tmp_path / 's'}")
    assert result.code == 0, result.err
    assert "no job of 1 has a value." in result.out
    assert "job 0 is failed (seed=0): <b>no</b> data." in result.out
    assert "<b>no" not in (tmp_path / "s" / "sweep.html").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "result.json: damaged, or not JSON."),
        ('{"status": "done", "value": "low", "overrides": 5, "cell": [], "n": {}}', "it has no value"),
        ('{"status": ["done"], "value": NaN}', "job 0 is ['done']"),
        ('{"status": "done", "value": 1.0, "checksum": "0"}', "changed since it was written"),
    ],
)
def test_a_damaged_record_is_a_job_without_a_value(tmp_path, invoke, text, says):
    sweep = write(tmp_path / "s", (["seed=0"], None), (["seed=1"], {"status": "done", "value": 2.0}), swept=("seed",))
    (sweep.directory / "0").mkdir()
    (sweep.directory / "0" / "result.json").write_text(text)
    result = invoke(REPORT, f"sweep_dir={sweep.directory}")
    assert result.code == 0, result.err
    assert says in result.out
    assert "best: all options equal: frontier/best 2.00 (job 1)" in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep_dir=none"], "sweep_dir=none: no sweep.json there"),
        (["sweep_dir=."], "sweep_dir=.: no sweep.json there"),
        (["sweep_dir=x", "runs=[y]"], "sweep_dir=x: goes without runs and with to=page alone."),
        (["sweep_dir=x", "to=wandb_chart"], "sweep_dir=x: goes without runs and with to=page alone."),
    ],
)
def test_bad_input(arguments, says, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(REPORT, *arguments)
    assert result.code == 2, result.err
    assert says in result.last


@pytest.mark.parametrize("text", ["{", "[]", '{"id": 1}', '{"jobs": {"x": []}}'])
def test_a_damaged_record_of_the_sweep(tmp_path, invoke, text):
    (tmp_path / "sweep.json").write_text(text)
    result = invoke(REPORT, f"sweep_dir={tmp_path}")
    assert result.code == 2
    assert "sweep.json: damaged (" in result.last


def test_a_job_is_called_by_what_is_swept_in_any_process(sweep, monkeypatch):
    """A launcher's process has a command line of its own; so has that of a job that is run alone."""
    words = ["+optimizer.lr=3e-4", "batch_size=64", f"paths.run_dir={sweep.directory / '1'}"]
    monkeypatch.setattr("sys.argv", ["_submit.py", "logs/.submitit/%j"])
    monkeypatch.setattr(names, "job_overrides", lambda: words)
    assert names.run_name(sweep.directory / "1") == "+optimizer.lr=3e-4"
    assert group_of(sweep.directory / "1") == "x-1"
    assert names.run_name(sweep.directory) == "sweep"
    assert group_of(sweep.directory) is None
    (sweep.directory / "sweep.json").write_text("[]")
    assert names.run_name(sweep.directory / "1") == "1"
    assert group_of(sweep.directory / "1") is None


def test_a_start_that_is_refused_leaves_the_record_of_a_job_that_is_done(sweep):
    def refused(number):
        with pytest.raises(BadInput), recorded(sweep.directory / str(number), []):
            raise BadInput("optimizer.lr=5: the run has optimizer.lr=1e-4.")
        return Sweep.read(sweep.directory).jobs[number]

    assert refused(0) == sweep.jobs[0]
    assert (refused(1).status, refused(1).error) == ("failed", "optimizer.lr=5: the run has optimizer.lr=1e-4.")
    with alive(sweep.directory / "4"):  # by another process, which goes on
        Job(4, sweep.directory / "4", sweep.jobs[4].overrides, "running").write()
        assert refused(4).status == "running"


def test_a_multirun_does_not_take_the_place_of_another_sweep(sweep, tmp_path, invoke):
    before = (sweep.directory / "sweep.json").read_bytes()
    words = ["train.py", "-m", f"hydra.sweep.dir={sweep.directory}"]
    result = invoke(*words, "optimizer.lr=7e-4,3e-4")
    assert (result.code, "job 0 there has optimizer.lr=1e-4, not optimizer.lr=0.0007" in result.last) == (2, True)
    assert (sweep.directory / "sweep.json").read_bytes() == before
    queued = write(tmp_path / "queued", (["optimizer.lr=1e-4"], None), launcher="processes")
    result = invoke(*words[:2], f"hydra.sweep.dir={queued.directory}", "optimizer.lr=7e-4,3e-4")
    assert (result.code, f"go on with it by sweep.resume={queued.directory}" in result.last) == (2, True)
    result = invoke(*words[:2], "sweep=slurm", f"sweep.resume={queued.directory}")
    assert (result.code, "has sweep=processes; leave it out." in result.last) == (2, True)
