"""Images of other sizes than those of the training."""

import numpy as np
import pytest


def test_a_convolutional_network_draws_other_sizes(invoke, finished, tmp_path):
    few = [f"ckpt={finished}", "num_samples=2", "sampler.steps=2", "format=npz"]
    for name, given, shape in (
        ("own", [], (8, 8)),
        ("named", ["task.size=[8,8]"], (8, 8)),
        ("wide", ["task.size=[8,16]"], (8, 16)),
    ):
        result = invoke("sample.py", *few, *given, f"out={tmp_path / name}")
        assert result.code == 0, result.err
        assert np.load(tmp_path / name / "samples.npz")["images"].shape == (2, *shape, 1)
    own, named = (np.load(tmp_path / name / "samples.npz")["images"] for name in ("own", "named"))
    assert np.array_equal(own, named)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("task.size=[7,8]", "task.size=[7,8]: "),
        ("task.size=[8,8,8]", "task.size=[8, 8, 8]: it must be [H,W]"),
        ("task.same_noise=true", "this model draws no prompts or classes in turn"),
        ("decode_memory=1", "decode_memory=1: this model has no autoencoder"),
        ("decode_memory=0", "decode_memory=0: "),
    ],
)
def test_what_cannot_be_is_refused(given, says, invoke, finished, tmp_path):
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", "sampler.steps=2", given, f"out={tmp_path / 'x'}")
    assert result.code == 2, result.err
    assert says in result.last
    assert not (tmp_path / "x").exists()
