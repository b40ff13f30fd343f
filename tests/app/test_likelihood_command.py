"""`sample.py task=likelihood` from the command line to its files."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from configurations import names
from conftest import QUICK
from litdata.streaming import Cache
from PIL import Image

QUICK_ODE = ["task=likelihood", "task/method=ode", "task.method.rtol=0.5", "task.method.atol=0.5"]
QUICK_CHAIN = ["task=likelihood", "task/method=bound", "task.method.steps=5"]
TOY = [
    *("experiment=toy_2d", "logger=none", "max_images=2048", "lr_schedule.images=1024"),
    *("network.width=8", "network.depth=1", "data.size=2000", "data.held_out=400"),
    *("evaluation.num_samples=50", "evaluation.nfe=[4]", "evaluation.samplers=[ddim]"),
]


def changed(finished, path, node=None, **data):
    """A copy of a checkpoint whose configuration names other data."""
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    config = checkpoint["denoiselab"]["config"]
    config["data"] = {**(node or config["data"]), **data}
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("options", "parts", "nfe"),
    [
        (QUICK_ODE, {"prior", "volume", "dequantisation"}, None),
        (QUICK_CHAIN, {"prior", "diffusion", "reconstruction"}, 5),
        (
            ["task=likelihood", "task/method=continuous_bound", "task.method.draws=3"],
            {"prior", "diffusion", "reconstruction"},
            3,
        ),
    ],
    ids=["ode", "bound", "continuous_bound"],
)
def test_a_likelihood_of_images(options, parts, nfe, finished, tmp_path, invoke):
    records = []
    for batch_size in (4, 7):
        out = tmp_path / str(batch_size)
        arguments = [f"ckpt={finished}", "num_samples=7", f"batch_size={batch_size}", f"out={out}", "seed=3"]
        result = invoke("sample.py", *arguments, *options)
        assert result.code == 0, result.err
        records.append(json.loads((out / "likelihood.json").read_text()))
        with (out / "samples.csv").open() as file:
            rows = list(csv.DictReader(file))
        each = torch.tensor([float(row["bits_per_dim"]) for row in rows], dtype=torch.float64)
        assert float(each.mean()) == pytest.approx(records[-1]["value"])
        assert float(each.std() / 7**0.5) == pytest.approx(records[-1]["standard_error"])
        assert len({row["index"] for row in rows}) == 7
    small, large = records
    assert small["value"] == pytest.approx(large["value"], abs=2e-3)
    assert small["value"] == pytest.approx(sum(part["value"] for part in small["parts"].values()))
    assert set(small["parts"]) == parts
    assert small["standard_error"] > 0
    assert f"{large['value']:.4f} +- {large['standard_error']:.4f} bits/dim" in result.out
    assert nfe in (None, small["nfe"])
    assert small["nfe"] > 1
    protocol = {"unit": "bits/dim", "n": 7, "data": "digits", "split": "held_out", "weights": "ema", "seed": 3}
    assert protocol.items() <= small.items()
    assert small["split_n"] > 200
    assert small["settings"]["_target_"].startswith("denoiselab.likelihood.")
    assert all(len(small[name]) == 64 for name in ("weights_sha256", "checkpoint_sha256", "split_sha256"))


def test_a_chain_leaves_its_rate_distortion_table(finished, tmp_path, invoke):
    result = invoke("sample.py", f"ckpt={finished}", *QUICK_CHAIN, "num_samples=5", f"out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    with (tmp_path / "out" / "rate_distortion.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((tmp_path / "out" / "likelihood.json").read_text())
    assert [int(row["t"]) for row in rows] == [5, 4, 3, 2, 1]
    assert float(rows[-1]["rate"]) + float(rows[-1]["term"]) == pytest.approx(record["value"])
    assert all(float(row["distortion"]) > 0 for row in rows)
    with Image.open(tmp_path / "out" / "rate_distortion.png") as image:
        assert image.size[0] > 1000


@pytest.mark.parametrize("name", [name for name in names("dequantisation") if name not in ("uniform", "none")])
def test_every_dequantisation(name, finished, tmp_path, invoke):
    choice = [f"dequantisation@task.method.dequantisation={name}"]
    choice += ["task.method.dequantisation.steps=2"] if name == "variational" else []
    arguments = [f"ckpt={finished}", *QUICK_ODE, *choice, "num_samples=2", f"out={tmp_path / 'out'}"]
    result = invoke("sample.py", *arguments)
    assert result.code == 0, result.err
    assert (tmp_path / "out" / "likelihood.json").is_file()


def test_a_model_of_logits_has_bits_per_dim_by_the_ode_alone(invoke, tmp_path):
    run = tmp_path / "run"
    few = ["evaluation.nfe=[2]", "callbacks.frontier.every_images=null", "logger=none"]
    logits = ["codec=logit", "augmentation=dequantise", f"paths.log_dir={tmp_path}", f"paths.run_dir={run}"]
    result = invoke("train.py", *QUICK, *few, *logits)
    assert result.code == 0, result.err
    record = {}
    for options, says in (
        (QUICK_ODE, None),
        (QUICK_CHAIN, "task.method.decoder: it is for data"),
        ([*QUICK_ODE, "dequantisation@task.method.dequantisation=decoded"], "latents of Logit; choose dequantisation@"),
        (["task=export", "task.format=diffusers"], "task.format=diffusers: it has no place for what Logit does"),
    ):
        out = tmp_path / f"out{len(record)}"
        few = [] if "task=export" in options else ["num_samples=4"]
        result = invoke("sample.py", f"ckpt={run}", *options, *few, f"out={out}")
        if says is None:
            record = json.loads((out / "likelihood.json").read_text())
            assert 0 < record["value"] < math.inf
        else:
            assert result.code == 2
            assert says in result.last


def test_likelihoods_of_points(invoke, tmp_path):
    points = tmp_path / "run"
    result = invoke("train.py", *TOY, f"paths.log_dir={tmp_path}", f"paths.run_dir={points}")
    assert result.code == 0, result.err
    real = ["decoder@task.method.decoder=real"]
    none = ["dequantisation@task.method.dequantisation=none"]
    decoded = ["dequantisation@task.method.dequantisation=decoded", "decoder@task.method.dequantisation.decoder=real"]
    for number, options in enumerate(
        [
            *([*QUICK_ODE, *none, f"trace@task.method.trace={trace}", "split=train"] for trace in names("trace")),
            [*QUICK_ODE, *decoded],
            ["task=likelihood", "task/method=continuous_bound", *real],
            [*QUICK_CHAIN, *real, "task.method.clip=3"],
        ]
    ):
        out = tmp_path / str(number)
        result = invoke("sample.py", f"ckpt={points}", *options, "num_samples=300", "batch_size=300", f"out={out}")
        assert result.code == 0, result.err
        record = json.loads((out / "likelihood.json").read_text())
        assert record["values"] is None
        assert record["split"] == ("train" if "split=train" in options else "held_out")
        assert 0 < record["value"] < math.inf
    for options, advice in (
        (QUICK_ODE, "dequantisation@task.method.dequantisation=none"),
        (QUICK_CHAIN, "decoder@task.method.decoder=real"),
    ):
        result = invoke("sample.py", f"ckpt={points}", *options)
        assert result.code == 2
        assert "swiss_roll has real numbers" in result.last
        assert advice in result.last


def test_the_folder_of_a_run_tells_requests_apart(finished, invoke):
    for repeats in (1, 2):
        arguments = [
            f"ckpt={finished}",
            "task=likelihood",
            "task/method=continuous_bound",
            "task.method.draws=1",
            f"repeats={repeats}",
        ]
        assert invoke("sample.py", *arguments, "num_samples=2").code == 0
    folders = list((finished / "likelihood").glob("continuoustimebound_held_out_ema_seed0_n2_*"))
    assert len(folders) == 2
    again = invoke("sample.py", *arguments, "num_samples=2")
    assert again.code == 2
    assert "exists already" in again.last


CASES = [
    (["task/method=odee"], ["task/method=odee", "did you mean 'ode'", "continuous_bound"]),
    (["num_samples=1"], ["num_samples=1", "at least 2"]),
    (["num_samples=100000"], ["num_samples=100000", "split=held_out", "give at most that"]),
    (["split=test"], ["split='test'", "'held_out' or 'train'"]),
    (["repeats=0"], ["repeats=0", "at least 1"]),
    (["task.method.rtol=-1"], ["rtol=-1", "at least 0"]),
    (["task.method.rtoll=1"], ["task.method.rtoll=1", "did you mean 'task.method.rtol'"]),
    (["task.method.trace.probes=0"], ["task.method.trace.probes=0", "at least 1"]),
    (["trace@task.method.trace=hutch"], ["trace", "rademacher"]),
    (["task.method.dequantisation.bins=17"], ["17 values", "digits has bytes"]),
    (["task/method=bound"], ["task.method.steps=null", "VPLinear is continuous"]),
    (["task/method=bound", "task.method.steps=1"], ["task.method.steps=1", "at least 2"]),
    (["task/method=continuous_bound", "decoder@task.method.decoder=real"], ["decoder@task.method.decoder=bytes"]),
    (["dequantisation@task.method.dequantisation=none"], ["task.method.dequantisation=uniform"]),
    (["task/method=continuous_bound", "task.method.draws=0"], ["task.method.draws=0", "at least 1"]),
    (["ckpt=/nowhere"], ["ckpt=/nowhere", "no such"]),
    (["weights=foo"], ["weights=foo", "ema, raw"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_refuses(arguments, says, finished, tmp_path, invoke):
    place = [f"ckpt={finished}", "task=likelihood", "num_samples=4", f"out={tmp_path / 'out'}"]
    result = invoke("sample.py", *place, *arguments)
    assert result.code == 2, result.err
    assert result.last.startswith("sample.py: ")
    for text in says:
        assert text in result.last
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_checkpoint_without_held_out_data(finished, tmp_path, invoke):
    path = changed(finished, tmp_path / "all.ckpt", validation=0.0)
    result = invoke("sample.py", f"ckpt={path}", *QUICK_ODE, "num_samples=4")
    assert result.code == 2
    assert "task.split=held_out: digits of this checkpoint has no such data; use task.split=train" in result.last


def test_a_checkpoint_cannot_name_other_code_as_its_data(finished, tmp_path, invoke):
    path = changed(finished, tmp_path / "evil.ckpt", _target_="pytorch_lightning.Trainer")
    result = invoke("sample.py", f"ckpt={path}", *QUICK_ODE, "num_samples=4")
    assert result.code == 2
    assert "data._target_=pytorch_lightning.Trainer: pytorch_lightning is not an allowed package" in result.last


class Hostile:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "task", [[*QUICK_ODE, "num_samples=2"], ["task=frontier"], ["task=encode", "task.split=train"]]
)
def test_data_that_a_checkpoint_names_run_no_code(task, finished, tmp_path, invoke):
    """Even where the checkpoint's configuration says that they may."""
    folder, marker = tmp_path / "set", tmp_path / "ran"
    cache = Cache(str(folder), chunk_size=5)
    for i in range(5):
        cache[i] = {"image": np.full((8, 8), i, np.uint8), "kind": Hostile(marker)}
    cache.done()
    cache.merge()
    node = {"_target_": "denoiselab.data.LitData", "name": "litdata", "root": str(folder), "shape": [1, 8, 8]}
    node |= {"num_classes": None, "cache_dir": str(tmp_path / "cache"), "validation": 0.0, "trust_pickles": True}
    path = changed(finished, tmp_path / "evil.ckpt", node)
    result = invoke("sample.py", f"ckpt={path}", *task)
    assert result.code == 2
    assert "index.json declares samples of the format 'pickle', which can run code" in result.last
    assert not marker.exists()


def test_data_that_the_user_names_stand_in_for_those_of_a_checkpoint(finished, tmp_path, invoke):
    for i in range(4):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    path = changed(finished, tmp_path / "elsewhere.ckpt", root="nowhere", _target_="denoiselab.data.ImageFolder")
    place = [f"ckpt={path}", "data=image_folder", f"data.root={tmp_path}", "data.shape=[1,8,8]"]
    place += [f"data.cache_dir={tmp_path / 'cache'}", "split=train", "num_samples=2", f"out={tmp_path / 'out'}"]
    result = invoke("sample.py", *place, *QUICK_ODE)
    assert result.code == 0, result.err
    told = json.loads((tmp_path / "out" / "likelihood.json").read_text())
    assert (told["data"], told["split_n"]) == ("image_folder", 4)
    result = invoke("sample.py", *place[:-1], f"out={tmp_path / 'other'}", *QUICK_ODE, "data.shape=[3,8,8]")
    assert "data.shape=[3, 8, 8]: the network of" in result.last
    assert result.code == 2
