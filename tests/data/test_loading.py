"""The order of training, and batches that other processes read ahead."""

import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from denoiselab.data import ImageFolder, prepared
from denoiselab.data.files import DecodedPixels
from denoiselab.data.loading import Batches, Reader
from denoiselab.data.stream import IndexStream


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """23 images of other sizes than the network's."""
    root = tmp_path_factory.mktemp("images")
    for i in range(23):
        size = (20 + i, 30, 3)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, size, np.uint8)).save(root / f"{i:02d}.png")
    return root


def load(root, cache, **options):
    """Random crops, decoded for each batch."""
    options = {"resize": "random_crop", "validation": 0.0, **options}
    return ImageFolder(
        name="mine", shape=(3, 8, 8), num_classes=None, root=str(root), cache_dir=str(cache), **options
    ).load()[0]


def take(data, batch_size, start, count, rank=0, world=1):
    batches = iter(Batches(data, 0, batch_size, start, rank, world))
    return [next(batches) for _ in range(count)]


@given(size=st.integers(1, 30), batch=st.integers(1, 40), world=st.sampled_from([1, 2, 3]), steps=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_every_image_is_seen_once_an_epoch_by_any_ranks_and_batch(size, batch, world, steps):
    """Also where there are more ranks than images, and where a batch is larger than the set."""
    batch *= world
    whole = IndexStream(size, 5)[torch.arange(batch * steps)]
    ranks = [IndexStream(size, 5) for _ in range(world)]
    seen = []
    for start in range(0, batch * steps, batch):
        parts = [stream[torch.arange(start + rank, start + batch, world)] for rank, stream in enumerate(ranks)]
        seen.append(torch.stack(parts, 1).flatten())
    seen = torch.cat(seen)
    assert torch.equal(seen, whole)
    for epoch in seen.split(size):
        assert len(epoch.unique()) == len(epoch)


def test_crops_are_random_but_a_function_of_seed_and_position(root, tmp_path):
    data = load(root, tmp_path, workers=0)
    assert isinstance(data.pixels, DecodedPixels)
    whole = torch.cat([batch["images"] for batch in take(data, 6, 0, 8)])
    parts = [batch["images"] for rank in range(2) for batch in take(data, 12, 0, 4, rank, 2)]
    assert torch.equal(torch.cat(parts[:4]), whole[0::2])
    assert torch.equal(torch.cat(parts[4:]), whole[1::2])
    assert torch.equal(torch.cat([batch["images"] for batch in take(data, 6, 30, 3)]), whole[30:])
    # A second epoch shows the same images cropped otherwise; what is stored is cropped at the centre.
    order = IndexStream(23, 0)[torch.arange(46)]
    pairs = [(i, 23 + int((order[23:] == order[i]).nonzero())) for i in range(23)]
    assert sum(torch.equal(whole[i], whole[j]) for i, j in pairs) < 3
    centre = load(root, tmp_path, workers=0, resize="center_crop")
    assert torch.equal(data.stored(torch.arange(23)), centre.stored(torch.arange(23)))
    assert data.fingerprint == centre.fingerprint


def test_other_processes_read_the_same_batches_and_hear_no_signals(root, tmp_path, monkeypatch):
    alone = take(load(root, tmp_path, workers=0), 4, 8, 12)
    monkeypatch.setattr(prepared, "_WORTH", -1.0)  # the first pass by other processes, too
    monkeypatch.setattr(prepared, "_CHUNK", 4)
    data = load(root, tmp_path / "another", workers=2)
    assert data.fingerprint == load(root, tmp_path, workers=0).fingerprint
    batches = iter(Batches(data, 0, 4, 8))
    for number, expected in enumerate(alone):
        batch = next(batches)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in batch)
        if number == 2:  # what a terminal and a job's end send to all
            children = [str(child.pid) for child in torch.multiprocessing.active_children()]
            assert len(children) >= 2
            for name in ("INT", "TERM"):
                subprocess.run(["kill", f"-{name}", *children], check=True)
    (root / "05.png").rename(root / "05")
    try:
        with pytest.raises(ValueError, match=r"^\S+05\.png: No such file or directory$"):
            take(data, 23, 0, 1)
    finally:
        (root / "05").rename(root / "05.png")


def test_captions_travel_with_their_images(root, tmp_path):
    lines = [f'{{"file_name": "{i:02d}.png", "text": "number {i}"}}' for i in range(23)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    try:
        data = load(root, tmp_path, workers=0, resize="center_crop")
    finally:
        (root / "metadata.jsonl").unlink()
    batch = Reader(data, 0)[range(7, 30)]
    assert batch["captions"] == [f"number {i}" for i in IndexStream(23, 0)[torch.arange(7, 30)].tolist()]
