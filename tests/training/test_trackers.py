"""Loggers of Lightning's as trackers: what they get, read back from their files."""

import csv
import importlib.util
import shutil
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from denoiselab.training import trackers
from denoiselab.training.frontier_entries import log_frontier
from denoiselab.training.trackers import CSV, MLflow, TensorBoard, TrackedRun

CONFIG = {"seed": 0, "network": {"_target_": "a.Net", "channels": 8}, "optimizer": {"lr": 1e-3}}


@pytest.fixture
def records(tmp_path):
    """Two samplers at two budgets, with pictures beside."""
    for name in ("frontier", "samples/a"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (6, 4), 200).save(path)
    common = {"metric": "fid", "n": 1000, "weights": "ema", "guidance": 1.0, "images_seen": 640, "error": None}
    scores = {("a", 5): 9.0, ("a", 10): 4.0, ("b", 5): 7.0, ("b", 10): None}
    return [{**common, "sampler": name, "nfe": nfe, "score": score} for (name, nfe), score in scores.items()]


def track(tracker, directory, records):
    run = tracker.open(directory, "run-1", "name", CONFIG)
    run.log_metrics({"train/loss": 0.5}, 64)
    run.log_metrics({"train/loss": 0.25}, 128)
    run.log_image("preview/samples", [str(directory / "frontier.png")], 128)
    log_frontier(run, records, directory)
    run.close(0)
    return run


SCALARS = {
    ("train/loss", 64): 0.5, ("train/loss", 128): 0.25, ("frontier/fid1k/a", 5): 9.0, ("frontier/fid1k/a", 10): 4.0,
    ("frontier/fid1k/b", 5): 7.0, ("fid1k_best", 640): 4.0, ("fid1k_best_nfe5", 640): 7.0,
    ("fid1k_best_nfe10", 640): 4.0,
}  # fmt: skip


def test_lightnings_csv_file_has_the_same_scalars_and_each_start_its_own(tmp_path, records):
    for start in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            track(CSV(), tmp_path, records)
        with (tmp_path / "lightning_csv" / f"version_{start}" / "metrics.csv").open() as file:
            rows = [*csv.DictReader(file)]
        found = {(key, int(row["step"])): float(v) for row in rows for key, v in row.items() if v and key != "step"}
        assert found == SCALARS


def test_tensorboard_has_the_same_scalars_and_the_pictures(tmp_path, records):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(TensorBoard(), tmp_path, records)
    read = EventAccumulator(str(tmp_path / "tensorboard" / "run-1"))
    read.Reload()
    scalars = {(tag, one.step): one.value for tag in read.Tags()["scalars"] for one in read.Scalars(tag)}
    assert scalars == pytest.approx(SCALARS)
    pictures = {(tag, one.step): (one.width, one.height) for tag in read.Tags()["images"] for one in read.Images(tag)}
    assert pictures == dict.fromkeys([("preview/samples", 128), ("samples/plot", 640), ("samples/a", 640)], (6, 4))


class Client:
    """The part of MLflow's client that is used, with runs in memory."""

    runs, pictures = {}, []

    def __init__(self, uri):
        self.uri = uri

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=f"id of {name}") if self.runs else None

    def search_runs(self, experiments, asked):
        assert experiments == ["id of mine"]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run, own in self.runs.items() if own in asked]

    def log_image(self, run_id, picture, name):
        self.pictures.append((run_id, picture.size, name))


def test_an_mlflow_run_that_continues_is_the_same_run(tmp_path, records, monkeypatch):
    made = []

    class Made:
        def __init__(self, experiment, name, *, tracking_uri, tags, artifact_location, run_id):
            made.append((experiment, name, tracking_uri, tags, artifact_location, run_id))
            self.run_id = self.version = run_id or "new"
            self.experiment = Client(tracking_uri)

        def __getattr__(self, name):
            return lambda *arguments: None

    tracking = ModuleType("mlflow.tracking")
    tracking.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(trackers, "MLFlowLogger", Made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tags = {"denoiselab_id": "run-1", "group": "run-1", "job_type": "train"}
    assert track(MLflow("mine"), tmp_path, records).version == "new"
    assert made == [("mine", "name", f"sqlite:///{tmp_path}/mlflow.db", tags, f"file:{tmp_path}/mlruns", None)]
    monkeypatch.setattr(Client, "runs", {"former": "run-1", "other": "run-2"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert track(MLflow("mine"), tmp_path, records).version == "former"
    assert made[1][2:] == ("http://there", tags, None, "former")
    assert ("former", (6, 4), f"preview/samples/{128:012d}.png") in Client.pictures


@pytest.mark.parametrize(("kind", "package"), [(TensorBoard, "tensorboard"), (MLflow, "mlflow")])
def test_a_missing_package_is_said_at_start(kind, package, monkeypatch, invoke):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ValueError, match=f"needs the package {package}; pip install"):
        kind()
    result = invoke("train.py", f"logger={package}")
    assert result.code != 0
    assert f"needs the package {package}; pip install" in result.err
    assert "Traceback" not in result.err


def test_errors_of_a_logger_are_one_warning_and_do_not_stop_the_run():
    calls = []

    class Fails:
        def log_hyperparams(self, config):
            calls.append(config)

        def log_metrics(self, metrics, step):
            raise OSError("the server\nis away")

    run = TrackedRun("MLflow", lambda: (Fails(), None), CONFIG)
    with pytest.warns(
        UserWarning, match=r"MLflow: the server is away \(metrics.csv and frontier.csv hold everything\)"
    ):
        run.log_metrics({"a": 1.0}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log_metrics({"a": 1.0}, 2)
        run.close(0)
    assert calls == [CONFIG]


def test_an_evaluation_is_logged_beside_its_run(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    result = invoke("sample.py", f"ckpt={copy}", "task=frontier", "task.nfe=[2]", "logger=lightning_csv")
    assert result.code == 0, result.err
    text = (copy / "lightning_csv" / "version_0" / "metrics.csv").read_text()
    assert "frontier/fd_classifier8/ddim" in text.splitlines()[0]
