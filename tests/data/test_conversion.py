import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from denoiselab.data import WebDataset
from denoiselab.data import conversion as module
from denoiselab.data.conversion import convert
from denoiselab.data.reading.decoding import Decoder
from denoiselab.data.reading.records import ArrayRecords

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
DECODER = Decoder((3, 6, 8), "none", 10**6)


def records(pixels=PIXELS):
    labels = torch.arange(len(pixels)) % 3
    return ArrayRecords("photos", pixels, labels, ("a", "b", "c"), [f"photo {i}" for i in range(len(pixels))])


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_shards_give_back_pixels_classes_and_captions(tmp_path):
    out = tmp_path / "out"
    done = convert(records(), DECODER, out, 4, 0)
    assert sorted(path.name for path in out.glob("*.tar")) == ["000000.tar", "000001.tar", "000002.tar"]
    source = WebDataset(
        name="it", shape=[3, 6, 8], num_classes=3, root=str(out), cache_dir=str(tmp_path / "cache"), validation=0.0
    )
    train, _ = source.load()
    assert np.array_equal(train.stored(torch.arange(10)).permute(0, 2, 3, 1).numpy(), PIXELS)
    assert train.labels.tolist() == records().labels.tolist()
    assert list(train.captions) == records().captions
    assert list(source.records().classes) == ["a", "b", "c"]
    assert np.allclose(done.mean, PIXELS.mean((0, 1, 2)) / 255, rtol=1e-12)
    assert np.allclose(done.std, PIXELS.std((0, 1, 2)) / 255, rtol=1e-12)
    facts = json.loads((out / "dataset.json").read_text())
    assert (facts["n"], facts["mean"], facts["std"]) == (10, done.mean, done.std)
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_a_stopped_conversion_goes_on_and_ends_as_one_that_was_not(tmp_path, monkeypatch):
    convert(records(), DECODER, tmp_path / "straight", 4, 0)
    encoded, seen = module._Encode.__call__, []

    def stops(self, first, last):
        for image in encoded(self, first, last):
            seen.append(image)
            if len(seen) == 7:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(module._Encode, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        convert(records(), DECODER, tmp_path / "stopped", 4, 0)
    assert [path.name for path in (tmp_path / "stopped").glob("*.tar")] == ["000000.tar"]
    assert not (tmp_path / "stopped" / "dataset.json").exists()
    convert(records(), DECODER, tmp_path / "stopped", 4, 0)
    assert len(seen) == 7 + 6  # the first shard was not read again
    assert files(tmp_path / "stopped") == files(tmp_path / "straight")


@pytest.mark.slow
def test_a_killed_conversion_goes_on(tmp_path):
    """With processes, and no word of farewell."""
    convert(records(), DECODER, tmp_path / "straight", 4, 0)
    program = (
        "import os, sys; sys.path.insert(0, 'tests/data')\n"
        "import test_conversion as t\n"
        "from pathlib import Path\n"
        "write = t.module._write\n"
        "def killed(path, *rest, **more):\n"
        "    if path.name == '000002.tar': open(path.with_name('.000002.tar.x.tmp'), 'w'); os._exit(9)\n"
        "    return write(path, *rest, **more)\n"
        "t.module._write = killed\n"
        "t.convert(t.records(), t.DECODER, Path(sys.argv[1]), 4, 0)\n"
    )
    out = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", program, str(out)], env={**os.environ}, check=False)
    assert done.returncode == 9
    assert len([*out.glob("*.tar")]) == 2
    convert(records(), DECODER, out, 4, 2)
    assert files(out) == files(tmp_path / "straight")


def test_a_shard_that_was_changed_is_written_anew(tmp_path):
    convert(records(), DECODER, tmp_path, 4, 0)
    wanted = files(tmp_path)
    (tmp_path / "000001.tar").write_bytes(b"harmed")
    convert(records(), DECODER, tmp_path, 4, 0)
    assert files(tmp_path) == wanted


class Harmed(ArrayRecords):
    def image(self, i):
        if i == 5:
            raise OSError("it is harmed")
        return super().image(i)


def harmed():
    whole = records()
    return Harmed(whole.name, whole.images, whole.labels, whole.classes, whole.captions)


def test_a_bad_image_is_named_or_left_out(tmp_path):
    with pytest.raises(ValueError, match=r"image 5 of photos: it is harmed.*data\.bad_images=skip"):
        convert(harmed(), DECODER, tmp_path / "fails", 4, 0)
    done = convert(harmed(), DECODER, tmp_path / "skips", 4, 0, skip=True)
    assert (done.n, done.bad) == (9, 1)
    assert (tmp_path / "skips" / "bad_images.txt").read_text() == "image 5 of photos: it is harmed\n"
    rest = np.delete(PIXELS, 5, 0)
    assert np.allclose(done.mean, rest.mean((0, 1, 2)) / 255, rtol=1e-12)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"out=.*is not a conversion"):
        convert(records(), DECODER, tmp_path, 4, 0)
    convert(records(), DECODER, tmp_path / "out", 4, 0)
    with pytest.raises(ValueError, match=r"out=.*conversion of other images"):
        convert(records(PIXELS[:5]), DECODER, tmp_path / "out", 4, 0)
