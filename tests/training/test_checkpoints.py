"""Checkpoint files: written atomically, kept in rotation, verified whenever they are read."""

import copy
import math
import os
import random
import re

import pytest
import torch
from torch.utils._pytree import tree_map

from denoiselab.files import atomic, write_text
from denoiselab.training.checkpoint_files import CheckpointError, check_weights, newest_whole, read_checkpoint, saved
from denoiselab.training.checkpoints import AtomicCheckpointIO
from denoiselab.training.finite import not_finite

IO = AtomicCheckpointIO()


def content(images_seen=7):
    weights = {"denoiser.w": torch.randn(2, 3), "denoiser.b": torch.randn(3).half()}
    ours = {"format": 1, "images_seen": images_seen, "config": {"name": "x", "list": [1, 2.5, None, True]}}
    ours["ema"] = {"ema": {"w": torch.randn(2, 3)}}
    return {"state_dict": weights, "optimizer_states": [{"state": {0: {"step": torch.ones(())}}}], "denoiselab": ours}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_atomic_writes_all_or_nothing(tmp_path):
    path = tmp_path / "a" / "file.txt"
    write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), atomic(path, "w") as file:  # noqa: PT012
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or truncated, or not a checkpoint"):
        read_checkpoint(path)


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path):
    """Over the whole file: headers, padding, pickle, tensors, directory."""
    path = tmp_path / "last.ckpt"
    want = content()
    IO.save_checkpoint(want, path)
    whole, rng = path.read_bytes(), random.Random(0)
    found = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(read_checkpoint(path), want), place
        except CheckpointError as error:
            found += 1
            assert "damaged or truncated" in str(error)  # noqa: PT017
    assert found > 0.4 * len(whole)  # the rest is padding, and what names and dates say twice


def test_a_tensor_that_is_marked_as_a_folder_is_found(tmp_path):
    """A bit that zip readers pass over, and for which torch returns memory that nobody wrote."""
    path = tmp_path / "last.ckpt"
    IO.save_checkpoint(content(), path)
    whole = path.read_bytes()
    headers = [match.start() for match in re.finditer(b"PK\x01\x02", whole)]
    assert len(headers) > 5
    for header in headers:
        marked = bytearray(whole)
        marked[header + 38] ^= 0x10  # the first byte of the external attributes
        path.write_bytes(marked)
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            read_checkpoint(path)


def test_every_truncation_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    IO.save_checkpoint(content(), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            read_checkpoint(path)


WRONG = [None, True, -1, 2**70, 1.5, "x", [], [1], {}, {1: 2}, {"a": {"b": 1}}, torch.zeros(2), torch.zeros(0)]
PLACES = [
    ("state_dict",), ("state_dict", "denoiser.w"), ("denoiselab",), ("denoiselab", "format"),
    ("denoiselab", "images_seen"), ("denoiselab", "config"), ("denoiselab", "ema"), ("denoiselab", "ema", "ema"),
    ("denoiselab", "ema", "ema", "w"),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_wrong_containers_are_one_sentence(place, tmp_path):
    path, expected = tmp_path / "last.ckpt", content()
    for wrong in WRONG:
        malformed = copy.deepcopy(expected)
        node = malformed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = wrong
        IO.save_checkpoint(malformed, path)
        try:
            found = read_checkpoint(path)
            check_weights(path, expected["state_dict"], found["state_dict"])
            for average in found["denoiselab"]["ema"].values():
                check_weights(path, expected["denoiselab"]["ema"]["ema"], average)
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert str(error).count("\n") == 0  # noqa: PT017
        else:  # what is as good
            assert (place[-1], type(wrong)) in {("config", dict), ("ema", dict), ("images_seen", int)}, wrong


@pytest.mark.parametrize("tensor", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3).to_sparse(),
    torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(1).expand(2, 2**40)],
    ids=["int", "sparse", "bool", "complex", "absurd"])  # fmt: skip
def test_weights_of_another_kind_are_one_sentence(tensor, tmp_path):
    path, expected = tmp_path / "last.ckpt", content()
    wrong = copy.deepcopy(expected)
    wrong["state_dict"]["denoiser.w"] = tensor
    IO.save_checkpoint(wrong, path)
    with pytest.raises(CheckpointError, match=r"denoiser\.w|state_dict"):
        check_weights(path, expected["state_dict"], read_checkpoint(path)["state_dict"])


def test_the_last_k_are_kept_and_the_newest_whole_one_is_found(tmp_path):
    for images in range(1, 6):
        IO.save_checkpoint(content(images), tmp_path / "last.ckpt", {"keep": 3})
        names = [path.name for path in saved(tmp_path)]
        assert names == ["last.ckpt", "last.1.ckpt", "last.2.ckpt"][:images]
        seen = [read_checkpoint(path)["denoiselab"]["images_seen"] for path in saved(tmp_path)]
        assert seen == list(range(images, max(0, images - 3), -1))
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:-9])
    path, checkpoint, damaged = newest_whole(tmp_path)
    assert (path.name, checkpoint["denoiselab"]["images_seen"]) == ("last.1.ckpt", 4)
    assert [path.name for path in damaged] == ["last.ckpt"]
    assert "last.1.ckpt, last.2.ckpt" in damaged[tmp_path / "last.ckpt"]
    for path in saved(tmp_path):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged.*last\.1\.ckpt: damaged.*last\.2\.ckpt: damaged"):
        newest_whole(tmp_path)


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_kill_at_any_point_of_a_rotation_loses_nothing(keep, linked, tmp_path, monkeypatch):
    """The process ends without unwinding before its n-th system call that changes a name."""
    if not linked:
        monkeypatch.setattr("pathlib.Path.hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    names = ["last.ckpt", "last.1.ckpt", "last.2.ckpt"][:keep]
    former = [tmp_path / name for name in names[1:]]

    def write(number):
        with atomic(tmp_path / "last.ckpt", "w", former) as file:
            file.write(str(number))

    def killed(point, number):
        child = os.fork()
        if not child:
            calls = iter(range(100))
            for name in ("rename", "replace", "link", "unlink"):
                real = getattr(os, name)
                monkeypatch.setattr(os, name, lambda *a, real=real: os._exit(9) if next(calls) == point else real(*a))
            write(number)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    number, points = 0, 0
    for point in range(12):
        for _ in range(3):
            number += 1
            write(number)
        number += 1
        points += killed(point, number)
        there = {name: int((tmp_path / name).read_text()) for name in names if (tmp_path / name).exists()}
        values = [there[name] for name in names if name in there]
        assert values == sorted(values, reverse=True)
        assert values[0] >= number - 1
        assert "last.ckpt" in there or not linked
    assert points >= keep


def test_a_number_that_is_not_finite_is_found_wherever_it_is():
    tree = content()
    assert not_finite(tree) is None
    for value in (math.nan, math.inf, -math.inf):
        for name, tensor in (
            ("state_dict.denoiser.b", tree["state_dict"]["denoiser.b"]),
            ("optimizer_states.0.state.0.step", tree["optimizer_states"][0]["state"][0]["step"]),
            ("denoiselab.ema.ema.w", tree["denoiselab"]["ema"]["ema"]["w"]),
        ):
            before = tensor.clone()
            tensor.view(-1)[-1] = value
            assert not_finite(tree) == name
            tensor.copy_(before)
    assert not_finite(tree_map(lambda leaf: leaf, {"a": torch.zeros(0), "b": torch.ones(2, dtype=torch.int64)})) is None
