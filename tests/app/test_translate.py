"""`sample.py task=translate`, `progressive` and `interpolate` of images."""

import json

import numpy as np
import pytest


@pytest.fixture
def drawn(finished, tmp_path, invoke):
    """The images that a task writes, those it was given, and its record."""

    def call(name, *arguments):
        out = tmp_path / name
        given = ["sample.py", f"ckpt={finished}", "format=npz", f"out={out}", *arguments]
        result = invoke(*given)
        assert result.code == 0, result.err
        paths = [path for path in (out / "samples.npz", out / "given" / "samples.npz") if path.exists()]
        images = [np.load(path)["images"][..., 0].astype(int) for path in paths]
        return images[0], images[-1], json.loads((out / "samples.json").read_text())

    return call


def test_images_come_back_and_more_of_them_with_inverted_steps(drawn, finished):
    asked = ["task=translate", "num_samples=3", "sampler.steps=8"]
    _, given, record = drawn("plain", *asked)
    assert record["inversion"]["nfe"] == 7
    assert record["nfe"] == 8
    fixed, _, exact = drawn("fixed", *asked, "fixed_point=4", "batch_size=2", f"source={finished}")
    assert exact["inversion"]["nfe"] == 4 + 7 * 5
    assert exact["rmse_to_given"] < record["rmse_to_given"] / 2
    assert exact["rmse_to_given"] == pytest.approx(np.sqrt(((fixed - given) ** 2).mean()) / 127.5, rel=1e-6)
    assert exact["inversion"]["residual"]["mean"] < 0.1
    assert exact["source"]["checkpoint_sha256"] == record["checkpoint_sha256"]
    near, _, half = drawn("half", *asked, "strength=0.3", "fixed_point=4")
    assert half["start"]["t"] == pytest.approx(0.3007)
    assert np.abs(near - given).max() < 20


def test_the_last_frames_of_a_progression_are_the_samples(drawn):
    asked = ["num_samples=3", "sampler.steps=4", "sampler=ancestral"]
    samples, _, _ = drawn("samples", *asked)
    frames, _, record = drawn("frames", "task=progressive", "frames=2", "batch_size=2", *asked)
    strips = frames.reshape(3, 2, 8, 8)
    assert np.abs(strips[:, 1] - samples).max() <= 1
    assert (strips[:, 0] != strips[:, 1]).any()
    assert [frame["step"] for frame in record["frames_at"]] == [2, 4]
    assert record["frames_at"][1]["sigma"] == 0


def test_frames_between_images(drawn):
    asked = ["task=interpolate", "images=held_out", "num_samples=4", "frames=3", "sampler.steps=20"]
    frames, given, record = drawn("encoded", *asked, "batch_size=3")
    ends = frames.reshape(2, 3, 8, 8)[:, [0, 2]].reshape(4, 8, 8)
    assert np.sqrt(((ends - given) ** 2).mean()) / 127.5 < 0.2
    assert record["nfe_encode"] == record["network_evaluations_encode"] == 19
    assert "strength" not in record
    few = [*asked[:-1], "sampler.steps=3", "batch_size=2", "fixed_point=1"]
    _, _, record = drawn("fixed", *few)  # three batches encode two pairs four times
    assert record["nfe_encode"] == (1 + 2 * 2) * 2
    assert record["residual"]["mean"] > 0
    assert len(record["given"]) == 4
    near, given, record = drawn("noised", *asked, "between=noised", "strength=0.02", "sampler=ancestral")
    ends = near.reshape(2, 3, 8, 8)
    for frames, wanted in ((ends[:, [0, 2]].reshape(4, 8, 8), given), (ends[:, 1], given.reshape(2, 2, 8, 8).mean(1))):
        assert np.sqrt(((frames - wanted) ** 2).mean()) / 127.5 < 0.15  # the noise of the level is 0.08
    assert record["start"]["rho"] < 0.2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["task=translate", "sampler=ancestral"], "task=translate: Ancestral is stochastic"),
        (["task=translate", "fixed_point=2", "sampler=dpmpp_2m"], "task.fixed_point=2: DPMSolverPP is no single-step"),
        (["task=translate", "inversion_guidance=2"], "task.inversion_guidance=2: the model takes no condition"),
        (["task=translate", "source=nowhere"], "task.source=nowhere: no such run directory or checkpoint file"),
        (["task=translate", "source_classes=[]"], "task.source_classes=[]: at least one is needed"),
        (["task=encode", "fixed_point=-1"], "task.fixed_point=-1: it must be at least 0."),
        (["task=encode", "inversion_guidance=inf"], "task.inversion_guidance=inf: it must be finite."),
        (["task=progressive", "frames=9", "sampler.steps=8"], "task.frames=9: the sampler has 8 steps"),
        (["task=progressive", "sampler=ode_adaptive"], "AdaptiveODE chooses its own steps"),
        (["task=interpolate", "between=noised"], "task.between=noised: images are noised; give task.images="),
        (["task=interpolate", "strength=0.2"], "task.strength=0.2: it has no effect without task.images"),
        (["task=interpolate", "images=train", "strength=0.2"], "it has no effect with task.between=encoded"),
        (["task=interpolate", "images=train", "fixed_point=1", "between=noised"], "no effect with task.between=noised"),
        (["task=interpolate", "images=held_out", "sampler=ancestral"], "task=interpolate: Ancestral is stochastic"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_input_is_a_sentence(arguments, says, finished, tmp_path, invoke):
    result = invoke("sample.py", f"ckpt={finished}", f"out={tmp_path / 'out'}", *arguments)
    assert result.code == 2, result.err
    assert says in result.last
    assert not (tmp_path / "out").exists()
