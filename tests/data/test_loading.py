"""The order of training, and batches that other processes read ahead."""

import contextlib
import operator
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from denoiselab.data import ImageFolder, to_uint8
from denoiselab.data.augmentation import NonLeaky
from denoiselab.data.loading import processes
from denoiselab.data.loading.batches import Batches, Reader
from denoiselab.data.loading.datamodule import DataModule, augmented
from denoiselab.data.loading.stream import IndexStream
from denoiselab.data.reading import first_pass
from denoiselab.data.reading.record_set import DecodedPixels


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
    monkeypatch.setattr(first_pass, "_WORTH", -1.0)  # the first pass by other processes, too
    monkeypatch.setattr(first_pass, "_CHUNK", 4)
    monkeypatch.setattr(first_pass, "_SHARE", 4)
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


def of_session(number):
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(path.parent.name))
    return found


def test_all_processes_end_with_a_program_that_is_killed():
    program = (
        "import operator, time; from denoiselab.data.loading.processes import in_parts\n"
        "parts = in_parts(operator.sub, range(4), 4, 2); print(next(parts), flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "-1\n"
        assert len(of_session(process.pid)) >= 4  # it, what it forks from, and two
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while of_session(process.pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_waits_until_all_processes_are_started(monkeypatch):
    """One that is half started would look for what is gone by then."""
    done = []

    class Pool:
        def __init__(self, *_, **__):
            pass

        def map(self, *_):
            signal.raise_signal(signal.SIGINT)
            done.append("started")
            raise EOFError  # as where the signal ended another process, too

        def shutdown(self, **_):
            done.append("ended")

    monkeypatch.setattr(processes, "clean_processes", lambda: None)
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        list(processes.in_parts(operator.sub, range(2), 2, 1))
    assert done == ["started", "ended"]


def test_what_the_network_sees_and_is_told_depends_on_positions_alone(root, tmp_path):
    data = load(root, tmp_path, workers=0, resize="center_crop")
    whole = DataModule(data, 0, 8, NonLeaky(p=0.5)).first(24)
    assert whole.is_contiguous(memory_format=torch.channels_last)
    reader = Reader(data, 0)
    for positions in (range(0, 24, 2), range(5, 9)):
        batch = augmented(reader[positions], 0, NonLeaky(p=0.5))
        torch.testing.assert_close(batch["images"], whole[list(positions)], rtol=0, atol=2e-6)
        assert batch["augmentation"].shape == (len(positions), 9)
    plain = augmented(reader[range(24)], 0, None)
    assert "augmentation" not in plain
    assert torch.equal(to_uint8(plain["images"]), reader[range(24)]["images"])


def test_captions_travel_with_their_images(root, tmp_path):
    lines = [f'{{"file_name": "{i:02d}.png", "text": "number {i}"}}' for i in range(23)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    try:
        data = load(root, tmp_path, workers=0, resize="center_crop")
    finally:
        (root / "metadata.jsonl").unlink()
    batch = Reader(data, 0)[range(7, 30)]
    assert batch["captions"] == [f"number {i}" for i in IndexStream(23, 0)[torch.arange(7, 30)].tolist()]
