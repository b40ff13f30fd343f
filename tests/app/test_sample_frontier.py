"""Frontiers of checkpoints, and of many on one page."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import QUICK

from denoiselab.app.config.settings import replaced
from denoiselab.app.runs.names import distinct
from denoiselab.evaluation import Store

EIGHT = ["task=frontier", "task.samplers=[ddim,ancestral]", "task.nfe=[3,4,5,40]", "task.num_samples=48"]


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
    result = invoke("sample.py", f"ckpt={copy}", "task=frontier", "task.level=0.01")
    assert result.code == 0, result.err
    assert records(copy) == [{**record, "pareto_level": 0.01} for record in before]
    assert json.loads((copy / "verdicts.json").read_text())["level"] == 0.01
    assert "64 images seen" in result.err
    assert f"page: {copy / 'frontier.html'}" in result.out


def test_other_weights_samplers_and_checkpoints_add_cells(copy, invoke):
    before = records(copy)
    result = invoke(
        "sample.py", f"ckpt={copy}", "task=frontier", "weights=[ema,raw]", "task.nfe=[2]",
        "task.samplers=[ddim,heun@karras]",
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
    asked = ["task.samplers=[ddim@karras]", "task.nfe=[2]", f"out={out}"]
    result = invoke("sample.py", f"ckpt={copy / 'x.ckpt'}", "task=frontier", *asked)
    assert result.code == 0, result.err
    assert "ddim@karras with 2 network calls ends where it does with 1" in " ".join(result.err.split())
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
    assert invoke("sample.py", f"ckpt={copy}", "task=frontier", "task.nfe=[5]").code == 0
    assert {r["nfe"] for r in records(copy)} == {2, 3, 5}
    assert invoke("sample.py", f"ckpt={copy}", "task=frontier").code == 0
    assert {r["nfe"] for r in records(copy)} == {2, 3, 4, 5}
    given = ["task.nfe=[6]", "task.extra_nfe={ddim:[7]}", "task.metrics=[frechet]"]
    assert invoke("sample.py", f"ckpt={copy}", "task=frontier", *given).code == 0
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


def test_names_in_an_edited_frontier_are_text_wherever_they_go(copy, invoke):
    """Cells of the run's own measure and model, with names that are paths, escape sequences, formulas and markup."""
    first, *others = records(copy)
    first["reference_file"] = "/etc/passwd"
    names = [
        "../../../../evil",
        "\x1b]0;title\x07",
        "=HYPERLINK(0)",
        "<a href='javascript:0'>$\\frac$",
        "__proto__",
        "a\nb",
    ]
    hostile = [{**first, "sampler": name, "cell": f"{number}../" * 16} for number, name in enumerate(names)]
    hostile += [{**first, "sampler": "x", "cell": "f" * 64, "score": None, "scores": {}, "error": "\x1b[2J gone"}]
    for record in hostile:
        record |= {"run": "@SUM(1)"}
        store = Store(copy)
        store.picture(record).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.picture(first), store.picture(record))
    (copy / "frontier.json").write_text(json.dumps([*others, *hostile, first]))
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, "wandb_id": "../../../away"}))
    around = {path for path in copy.parent.parent.rglob("*") if not path.is_relative_to(copy)}
    given = ["task=frontier", "task.nfe=[2]", "logger=wandb", "logger.wandb.mode=offline"]
    result = invoke("sample.py", f"ckpt={copy}", *given)
    assert result.code == 0, result.err
    assert {path for path in copy.parent.parent.rglob("*") if not path.is_relative_to(copy)} == around
    assert not {character for character in result.out + result.err if ord(character) < 32} - {"\n", "\t"}
    assert "\\x1b]0;title\\x07" in result.out
    assert "a\\nb" in result.out
    with (copy / "frontier.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=HYPERLINK(0)" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") or "\x1b" in cell]
    assert len(list((copy / "samples").glob("*.png"))) >= len(names)
    # No file that a record names waits to be uploaded.
    secret = Path("/etc/passwd").read_bytes()
    assert secret not in [path.read_bytes() for path in (copy / "wandb").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "change",
    [
        {"nfe": "5"}, {"nfe": 10**400}, {"sampler": 3}, {"shape": [1, 8, 0]}, {"scores": {"a": 1}}, {"cell": None},
        {"score": True}, {"weights_sha256": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_wrong_types_is_refused_in_a_sentence(change, finished, tmp_path, invoke):
    """Whatever reads records relies on the types of their fields."""
    (tmp_path / "run").mkdir()
    for edited in (json.dumps([{**records(finished)[0], **change}]), "[" * 100_000, "{}", "[3]", "\0"):
        (tmp_path / "run" / "frontier.json").write_text(edited)
        result = invoke("src/denoiselab/report.py", f"runs=[{tmp_path / 'run'}]")
        assert result.code == 2
        assert f"{tmp_path / 'run' / 'frontier.json'}: damaged" in result.last


def test_a_folder_name_follows_no_path_in_a_checkpoint(copy, invoke):
    """The name of a profile of averages stands in the checkpoint, and names the folder of samples."""
    path = copy / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    ema = content["denoiselab"]["ema"]
    ema["../../../evil/x"] = ema.pop("ema")
    torch.save(content, path)
    result = invoke("sample.py", f"ckpt={copy}", "num_samples=2", "sampler.steps=2")
    assert result.code == 2
    assert "'../../../evil/x' is no name of averages" in result.last
    assert not (copy.parent / "evil").exists()
    assert not list(copy.parent.rglob("samples.json"))


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
        measured = ("seconds", "seconds_per_1k_images", "peak_memory_mb", "run", "pareto", "scored", "ms_per_sample")
        return {key: value for key, value in record.items() if key not in measured and not key.endswith("_ms")}

    assert [r["seconds"] for r in continued[: len(killed)]] == [r["seconds"] for r in killed]  # not computed again
    assert [timeless(r) for r in continued] == [timeless(r) for r in whole]
    assert [r["pareto"] for r in continued] == [r["pareto"] for r in whole]
    assert not list(copy.glob(".frontier.*.tmp"))


def test_jobs_of_a_sweep_are_called_by_what_was_swept(tmp_path, invoke):
    """In the legend, in the table, and where W&B shows their names; a pattern passes over the sweep's own files."""
    sweep = tmp_path / "logs" / "sweep"
    result = invoke(
        "train.py", *QUICK, "-m", "seed=0,1", "batch_size=32", "logger=wandb", "logger.wandb.mode=offline",
        f"paths.log_dir={tmp_path / 'logs'}", f"hydra.sweep.dir={sweep}", "evaluation.nfe=[2]",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert {r["run"] for job in "01" for r in records(sweep / job)} == {"seed=0", "seed=1"}
    sent = [json.loads(text)["run"] for place in ("0", "1", ".") for text in wandb_runs(sweep / place)]
    group = json.loads((sweep / "sweep.json").read_text())["group"]
    assert {run["run_group"] for run in sent} == {group}
    assert [run["display_name"] for run in sent] == ["seed=0", "seed=1", f"sweep {group}"]
    assert sent[2]["job_type"] == "sweep"
    (table,) = (sweep / "wandb").glob("offline-run-*/files/media/table/sweep_jobs_*.table.json")
    assert [row[2] for row in json.loads(table.read_text())["data"]] == ["0", "1"]
    assert "in the mean over 2 seeds, 95% interval [" in result.out
    shown = content(sweep / "sweep.html")
    assert [job["link"] for job in shown["jobs"]] == [f"{job['texts'][0]}/frontier.html" for job in shown["jobs"]]
    assert shown["panels"][0]["title"] == "seeds 0, 1"
    result = invoke("sample.py", f"ckpt={sweep}/*", "task=frontier", "task.nfe=[2]")
    assert result.code == 0, result.err
    (joint,) = sweep.glob("frontier-*")
    with (joint / "frontiers.csv").open() as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"seed=0", "seed=1"}
    shown = content(joint / "frontiers.html")
    assert {cell["run"] for cell in shown["cells"]} == {"seed=0", "seed=1"}
    assert "2 trainings (seed 0, 1), 95% t intervals over trainings" in result.out
    (panel,) = json.loads((joint / "panels.json").read_text())["panels"]
    assert shown["panels"] == [panel]
    assert panel["runs"] == ["seed=0", "seed=1"]
    # Runs of version 0.1 have no overrides of their own, but the sweep's table.
    for job in "01":
        info = json.loads((sweep / job / "run.json").read_text())
        for start in info["starts"]:
            del start["overrides"], start["name"]
        (sweep / job / "run.json").write_text(json.dumps(info))
    assert distinct([sweep / "0", sweep / "1"]) == ["seed=0", "seed=1"]
    # Jobs of two sweeps with the same options stay apart.
    shutil.copytree(sweep, tmp_path / "logs" / "other")
    four = [tmp_path / "logs" / name / job for name in ("sweep", "other") for job in "01"]
    assert distinct(four) == ["seed=0 (sweep/0)", "seed=1 (sweep/1)", "seed=0 (other/0)", "seed=1 (other/1)"]


def test_runs_are_called_by_what_differs_between_them(tmp_path):
    def run(name, *overrides):
        (tmp_path / name).mkdir()
        start = {"overrides": ["experiment=digits", *overrides], "name": name}
        (tmp_path / name / "run.json").write_text(json.dumps({"starts": [start]}))
        return tmp_path / name

    first, second, third = run("2026-a", "seed=0"), run("2026-b", "seed=1"), run("2026-c")
    again = run("2026-d", "seed=1")
    assert distinct([first, second]) == ["seed=0", "seed=1"]
    # Where that does not tell them apart, with their directories.
    assert distinct([first, second, third]) == ["2026-a seed=0", "2026-b seed=1", "2026-c"]
    assert distinct([first, second, again]) == ["2026-a seed=0", "2026-b seed=1", "2026-d seed=1"]
    assert distinct([second, again]) == ["2026-b", "2026-d"]


def wandb_runs(directory):
    for file in directory.glob("wandb/offline-run-*/*.wandb"):
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60)
        yield from (line for line in done.stdout.splitlines() if json.loads(line)["type"] == "run")


def content(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])


def test_many_checkpoints_are_scored_and_shown_together(finished, tmp_path, invoke):
    for name in ("a", "b"):
        shutil.copytree(finished, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("wandb"))
    before = len(records(finished))
    result = invoke("sample.py", f"ckpt={tmp_path}/runs/*", "task=frontier", "task.samplers=[euler]")
    assert result.code == 0, result.err
    (joint,) = tmp_path.glob("runs/frontier-*")
    assert f"of 2 run(s): {joint / 'frontiers.html'}" in result.out
    with (joint / "frontiers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records(tmp_path / "runs" / "a")) + len(records(tmp_path / "runs" / "b"))
    assert {row["run"] for row in rows if row["sampler"] == "euler"} == {"a", "b"}
    # The same command again: its own page, beside the runs, fits the pattern too.
    words = [f"ckpt={tmp_path}/runs/*", "task=frontier", "task.samplers=[euler]", f"out={tmp_path / 'own'}"]
    result = invoke("sample.py", *words)
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "own").iterdir()} >= {"frontiers.html", "frontiers.csv"}
    # Marks are those among the cells of all runs: cells of the same samples have the same.
    marks = {name: [row["pareto"] for row in rows if row["run"] == name] for name in ("a", "b")}
    assert marks["a"] == marks["b"]
    assert "True" in marks["a"]
    # The page of runs that were scored before: the same, and the folder of a former page is no run.
    result = invoke("src/denoiselab/report.py", f"runs=[{tmp_path}/runs/*]", f"out={tmp_path / 'out'}", "level=0.3")
    assert result.code == 0, result.err
    assert f"{len(rows)} cells of 2 run(s)" in result.out
    joint = json.loads((tmp_path / "out" / "frontiers.json").read_text())
    assert {record["pareto_level"] for record in joint} == {0.3}
    assert len(records(finished)) == before


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("sample.py", ["ckpt=nowhere*", "task=frontier"], "ckpt=nowhere*: nothing fits"),
        ("sample.py", ["ckpt=[]", "task=frontier"], "ckpt=[]"),
        ("sample.py", ["ckpt=[{run},{run}]"], "task=frontier takes several"),
        ("sample.py", ["ckpt={run}/../*"], "a pattern is for task=frontier"),
        ("sample.py", ["ckpt={run}/.."], "it is no run but holds 1; name one"),
        ("sample.py", ["ckpt={run}/..", "task=frontier"], "it is no run but holds 1; name one"),
        ("sample.py", ["ckpt={run}/s*", "task=frontier"], "no checkpoint there"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.samplers=[]"], "task.samplers=[]"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.samplers=[dimm]"], "did you mean 'ddim'"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.samplers=[ddim,ddim]"], "task.samplers"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.nfe=[0]"], "task.nfe"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.num_samples=1"], "task.num_samples=1"),
        ("sample.py", ["ckpt={run}", "task=frontier", "weights=foo"], "weights=foo"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.guidance=[2]"], "task.guidance=[2.0]"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.metrics=[kernel]"], "num_samples"),
        ("sample.py", ["ckpt={run}", "task=frontier", "sampler=heun"], "did you mean 'task.samplers'"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.reference=no.npz"], "task.reference=no.npz"),
        ("sample.py", ["ckpt={run}", "task=frontier", "task.reference_data=all"], "'same' or 'any'"),
        ("sample.py", ["ckpt={run}", "task=frontier", "out={run}/samples"], "holds no frontier"),
        ("sample.py", ["ckpt={run}", "task=frontier", "num_samples=1"], "task.num_samples=1"),
        (
            "sample.py",
            ["ckpt={run}", "task=frontier", "sampler.steps=9"],
            "sampler.steps=9: unknown option; did you mean 'samplers.steps'",
        ),
        (
            "sample.py",
            ["ckpt={run}", "task=frontier", "noise=brownian"],
            "noise=brownian: unknown option; allowed at the top: accelerator",
        ),
        ("src/denoiselab/report.py", ["runs=[]"], "runs=[]"),
        ("src/denoiselab/report.py", ["runs=[{run}/samples]"], "no frontier.json there"),
        ("src/denoiselab/report.py", ["runs=[{run}]", "level=2"], "level=2"),
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


def test_a_frontier_that_is_drawn_until_it_is_decided(copy, invoke):
    decided = ["task=frontier", "task.samplers=[ddim,dpmpp_2m]", "task.nfe=[2,4]", "task.stop=decided"]
    result = invoke("sample.py", f"ckpt={copy}", *decided, "task.max_samples=100")
    assert result.code == 2
    assert "task.max_samples=100: the first look is at 256 samples or more." in result.err
    result = invoke("sample.py", f"ckpt={copy}", *decided, "task.max_samples=512", "task.level=0.0005")
    assert result.code == 2
    assert "level=0.0005: it must be from 0.001 to less than 1." in result.err
    result = invoke("sample.py", f"ckpt={copy}", *decided, "task.max_samples=512")
    assert result.code == 0, result.err
    new = [record for record in records(copy) if record.get("stop")]
    assert {record["n"] for record in new} <= {256, 362, 512}
    spent = sum(record["n"] for record in new)
    assert re.search(rf"at most 512 samples a cell: {spent:,} samples in 4 cells", " ".join(result.out.split()))
    assert re.search("NFE 4: (ddim|dpmpp_2m)", result.out)
    assert "One training: " in result.out
    assert {record["metric"] for record in new} == {"fd_classifier_infinity"}
    page = content(copy / "frontier.html")
    shown = [number for number, cell in enumerate(page["cells"]) if cell["stopped"]]
    assert len(shown) == 4
    (compared,) = (one for one in page["comparisons"] if set(one["cells"]) & set(shown))
    assert compared["metric"] == "fd_classifier_infinity"
    assert sorted(compared["cells"]) == sorted(shown)
    # One that was killed before its first record goes on in the folder that was asked for.
    out = copy.parent / "out"
    shutil.copytree(copy / "decided", out / "decided")
    result = invoke("sample.py", f"ckpt={copy}", *decided, "task.max_samples=512", f"out={out}")
    assert result.code == 0, result.err
    assert {record["cell"] for record in records(out)} == {record["cell"] for record in new}
