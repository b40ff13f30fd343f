"""`sample.py task=encode` and `task=interpolate`: data to x_T and back, and samples between samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.data import to_uint8
from denoiselab.model import Model
from denoiselab.noise import Noise
from denoiselab.pretrained import read_weights
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing import UniformTime


def test_data_are_encoded_and_made_again(invoke, finished, tmp_path):
    for batch_size in (2, 5):
        out = tmp_path / str(batch_size)
        asked = [
            "task=encode",
            "task.split=held_out",
            "sampler.steps=3",
            "num_samples=5",
            f"batch_size={batch_size}",
            "format=npz",
        ]
        result = invoke("sample.py", f"ckpt={finished}", *asked, f"out={out}", "accelerator=cpu")
        assert result.code == 0, result.err
        assert "encoding: 100%" in result.err  # although the way to x_T takes a step less
    record = json.loads((out / "encoding.json").read_text())
    assert (record["nfe_encode"], record["nfe_decode"], record["n"], record["split"]) == (2, 3, 5, "held_out")
    assert f"RMSE {record['rmse']:.4g} of 5 samples of held_out" in result.out
    latents, other = np.load(out / "latents.npz"), np.load(tmp_path / "2" / "latents.npz")
    assert np.allclose(latents["x_T"], other["x_T"], atol=1e-5)
    loaded, _ = read_weights(finished / "checkpoints" / "last.ckpt", None)
    data, model = loaded.data()[1], loaded.model
    index = torch.from_numpy(latents["index"])
    back = DDIM(UniformTime(), 3)(
        model.denoiser.eval(), model.denoiser.schedule, model.shape, Noise(9, index),
        start=torch.from_numpy(latents["x_T"]),
    )  # fmt: skip
    error = (back - data.inputs(index)).flatten(1).square().mean(1).sqrt()
    assert np.allclose(latents["rmse"], error, rtol=1e-4)
    assert record["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    images = np.load(out / "samples.npz")["images"]
    assert np.array_equal(images, to_uint8(back).permute(0, 2, 3, 1))
    with Image.open(out / "pairs.png") as pairs:  # two pairs a row, cells of 9 pixels, enlarged 8 times
        assert pairs.size == (4 * 72, 3 * 72)
        cells = np.asarray(pairs)[4::8, 4::8]
    assert np.array_equal(cells[:8, 18:26], data.stored(index)[1, 0])
    assert np.array_equal(cells[:8, 27:35], images[1, ..., 0])


def test_frames_lie_between_two_samples_under_the_class_of_the_first(invoke, finished, tmp_path, monkeypatch):
    drawn = []
    draw = Model.draw
    monkeypatch.setattr(Model, "draw", lambda self, index, *a, **b: drawn.append(index) or draw(self, index, *a, **b))
    images = {}
    for name, asked in (("ends", []), ("frames", ["task=interpolate", "task.frames=3", "batch_size=4"])):
        common = [f"ckpt={finished}", "num_samples=4", "sampler.steps=3", "format=npz", f"out={tmp_path / name}"]
        result = invoke("sample.py", *common, *asked)
        assert result.code == 0, result.err
        images[name] = np.load(tmp_path / name / "samples.npz")["images"]
    assert torch.cat(drawn[1:]).tolist() == [0, 0, 0, 2, 2, 2]  # conditions are functions of these
    assert "6 samples, 3 network calls each" in result.out
    frames = images["frames"].reshape(2, 3, 8, 8).astype(int)
    assert np.abs(frames[:, [0, 2]] - images["ends"].reshape(2, 2, 8, 8)).max() <= 1  # another batch, rounded
    assert (frames[:, 1] != frames[:, 0]).any()
    with Image.open(tmp_path / "frames" / "grid.png") as grid:
        assert grid.size == (3 * 72, 2 * 72)


def test_a_folder_is_encoded(invoke, finished, tmp_path):
    (tmp_path / "folder").mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8), 80 * k, np.uint8)).save(tmp_path / "folder" / f"{k}.png")
    asked = [
        "task=encode",
        f"images={tmp_path / 'folder'}",
        "sampler.steps=3",
        "batch_size=2",
        f"out={tmp_path / 'out'}",
    ]
    result = invoke("sample.py", f"ckpt={finished}", *asked)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "out" / "encoding.json").read_text())
    assert (record["n"], record["split"], record["given"]) == (3, "folder", ["0.png", "1.png", "2.png"])
    assert np.load(tmp_path / "out" / "latents.npz")["x_T"].shape == (3, 1, 8, 8)


def test_what_has_no_latents_is_refused(invoke, finished, tmp_path):
    for given, words in (
        (
            ["task=encode", "task.split=held_out", "sampler=ancestral"],
            ["task=encode: Ancestral is stochastic", "DDIM, eta=0"],
        ),
        (["task=encode", "task.split=held_out", "sampler.eta=0.5"], ["task=encode: DDIM is stochastic"]),
        (["task=encode", "task.split=train", "sampler.steps=1"], ["task=encode: DDIM with steps=1", "more steps"]),
        (
            ["task=encode", "task.split=train", "num_samples=100000"],
            ["num_samples=100000", "task.split=train", "give at most that"],
        ),
        (["task=encode", "images=train"], ["task.images=train: it is a folder here", "task.split"]),
        (["task=encode", "task.split=test"], ["task.split='test'", "'held_out' or 'train'"]),
        (["task=encode", "task.split=train", "guidance=2"], ["guidance=2", "takes no condition"]),
        (["task=encode", "noise=brownian"], ["noise=brownian: unknown option", "takes: split, images"]),
        (
            ["task=interpolate", "task.frames=3", "sampler.eta=0.5"],
            ["task=interpolate: DDIM is stochastic", "deterministic"],
        ),
        (["task=interpolate", "task.frames=3", "num_samples=3"], ["num_samples=3", "even"]),
        (["task=interpolate", "task.frames=1"], ["task.frames=1", "at least 2"]),
    ):
        out = tmp_path / "out"
        result = invoke("sample.py", f"ckpt={finished}", "num_samples=4", f"out={out}", *given)
        assert result.code == 2, result.err
        assert all(word in result.last for word in words), result.last
        assert not list(tmp_path.iterdir())
