"""`sample.py task=pairs`, trainings on its pairs, and `task=straightness`."""

import json

import pytest
import torch
from conftest import QUICK

from denoiselab.app.tasks import pairs as task
from denoiselab.data.array_writing import ShardWriter
from denoiselab.data.pairs import PairStore
from denoiselab.noise import Noise
from denoiselab.pretrained import load
from denoiselab.samplers import RhoRK
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, read_checkpoint

FAST = [
    "evaluation.nfe=[2]",
    "logger=none",
    "callbacks.frontier.every_images=null",
    "callbacks.preview.every_images=null",
]
MAKE = ["task=pairs", "num_samples=10", "batch_size=3", "images_per_shard=4", "sampler.steps=3"]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def made(finished, invoke, tmp_path):
    result = invoke("sample.py", f"ckpt={finished}", *MAKE, f"out={tmp_path / 'pairs'}")
    assert result.code == 0, result.err
    assert f"train with: pairs={tmp_path / 'pairs'}" in result.out
    return tmp_path / "pairs"


def test_pairs_are_those_of_sampling_and_a_stopped_command_goes_on(made, finished, invoke, tmp_path, monkeypatch):
    model, index = load(finished), torch.arange(10)
    z = Noise(1, index).normal(model.shape)
    x0 = RhoRK(steps=3)(model.bound(index), model.denoiser.schedule, model.shape, Noise(1, index))
    found = PairStore.open(made).pairs(index)
    assert torch.equal(found[:, 0], z)
    assert torch.allclose(found[:, 1], x0, atol=1e-5)

    write, calls = ShardWriter.write, []

    def stopped(self, out, check):
        def one():
            calls.append(0)
            if len(calls) == 3:
                raise KeyboardInterrupt

        write(self, out, one)

    arguments = [f"ckpt={finished}", *MAKE, f"out={tmp_path / 'again'}"]
    with monkeypatch.context() as patched:
        patched.setattr(task.ShardWriter, "write", stopped)
        invoke("sample.py", *arguments)
    assert len(calls) == 3
    assert not (tmp_path / "again" / "pairs.json").exists()
    result = invoke("sample.py", *arguments)
    assert result.code == 0, result.err
    assert content(tmp_path / "again") == content(made)
    result = invoke("sample.py", *arguments, "sampler=ddim")
    assert result.code == 2
    assert "it holds pairs made with another of; choose a new folder" in result.last


def test_a_training_reads_them_and_records_what_they_cost(made, finished, invoke, tmp_path):
    run = [f"paths.log_dir={tmp_path}", f"paths.run_dir={tmp_path / 'run'}"]
    flow = ["method=flow_matching", "level_distribution@objective.level_distribution=u_shaped", *run, *FAST]
    result = invoke("train.py", *QUICK, *flow, f"pairs={made}")
    assert result.code == 0, result.err
    store = PairStore.open(made)
    nfe = store.facts["of"]["nfe"]
    assert f"in 10 pairs, which took {10 * nfe} calls" in result.err
    ours = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[CHECKPOINT_KEY]
    assert ours["data_sha256"] == store.fingerprint
    assert ours["teacher"]["calls"] == 10 * nfe
    assert json.loads((tmp_path / "run" / "run.json").read_text())["teacher"] == ours["teacher"]
    for changes, says in (
        (["evaluation.seed=1"], "are of the noise of evaluation.seed=1"),
        (["conditioner=label"], "have no classes, on which this run conditions"),
        (["augmentation=flip"], "so give augmentation=null"),
        (["codec=logit"], "were made by a model with codec"),
        (["pairs=/"], "pairs=/: has no pairs.json"),
    ):
        result = invoke("train.py", *QUICK, *FAST, f"paths.log_dir={tmp_path}", f"pairs={made}", *changes)
        assert result.code == 2, result.err
        assert says in result.last
    result = invoke("sample.py", f"ckpt={finished}", "task=pairs", "sampler=ddpm")
    assert result.code == 2
    assert "task=pairs: Ancestral adds noise of its own" in result.last


def test_straightness_is_written_with_its_protocol(finished, invoke, tmp_path):
    given = ["task=straightness", "num_samples=6", "sampler.steps=4"]
    values = []
    for size in (6, 4):
        out = tmp_path / str(size)
        result = invoke("sample.py", f"ckpt={finished}", *given, f"batch_size={size}", f"out={out}")
        assert result.code == 0, result.err
        values.append(json.loads((out / "straightness.json").read_text()))
    assert values[0]["straightness"] == pytest.approx(values[1]["straightness"], rel=1e-5)
    assert 0 < values[0]["standard_error"] < values[0]["straightness"]
