"""Small files that unpack to very large ones, and structures deep enough to break a parser, are refused unread."""

import gzip
import io
import json
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from denoiselab.data import Arrays, FashionMNIST, ImageFolder, ImageZip, WebDataset
from denoiselab.evaluation.contracts import Given
from denoiselab.evaluation.references import given as given_files
from denoiselab.interop import InteropError
from denoiselab.interop.weights.files import read_torch

LARGE, ALLOWED = 96 * 2**20, 24 * 2**20  # bytes: what a file unpacks to, and what may be in memory at a time
DEEP = b"[" * 200_000


def png():
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


def large(archive, name):
    with archive.open(name, "w", force_zip64=True) as file:
        for _ in range(LARGE // 2**20):
            file.write(bytes(2**20))


def load(kind, path, cache, **options):
    options = {"shape": (1, 8, 8), "num_classes": None, "validation": 0.0, "workers": 0, **options}
    return kind(name="it", root=str(path), cache_dir=str(cache), **options).load()


def refused(says, call, error=ValueError):
    """The error's sentence; the call takes next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=says) as raised:
            call()
        assert tracemalloc.get_traced_memory()[1] < ALLOWED
    finally:
        tracemalloc.stop()
    text = str(raised.value)
    assert "\n" not in text
    assert not re.search(r"\. \w", text), text  # one sentence
    return text


@pytest.mark.parametrize("name", ["dataset.json", "metadata.jsonl", "cats/metadata.csv"])
def test_tables_in_a_zip(name, tmp_path):
    path = tmp_path / "it.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("cats/0.png", png())
        large(archive, name)
    assert path.stat().st_size < LARGE / 100
    says = rf"data\.root=.*it\.zip: its {name} unpacks to 100,663,296 bytes, more than the 1,064,960 allowed"
    refused(says, lambda: load(ImageZip, path, tmp_path))


def test_a_table_in_a_zip_whose_directory_says_less(tmp_path):
    path = tmp_path / "it.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("0.png", png())
        large(archive, "dataset.json")
        archive.getinfo("dataset.json").file_size = 1000  # which goes into the directory
    refused("damaged, or not a zip archive", lambda: load(ImageZip, path, tmp_path))


def test_tables_that_are_as_large_as_their_images_are_many(tmp_path):
    captions = [{"file_name": f"{i}.png", "text": "x" * 12_000} for i in range(100)]
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as archive:
        for i in range(100):
            archive.writestr(f"{i}.png", png())
        archive.writestr("metadata.jsonl", "\n".join(map(json.dumps, captions)))
    train, _ = load(ImageZip, tmp_path / "it.zip", tmp_path)
    assert len(train.captions[99]) == 12_000


def test_arrays_in_an_npz(tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    with zipfile.ZipFile(tmp_path / "images.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        large(archive, "images.npy")
    with zipfile.ZipFile(tmp_path / "labels.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w") as file:
            np.save(file, images)
        large(archive, "labels.npy")
    refused(
        r"images\.npz: it cannot be read \(its images\.npy unpacks to 100,663,296 bytes",
        lambda: load(Arrays, tmp_path / "images.npz", tmp_path, memory_limit=0.01),
    )
    refused(
        r"labels\.npz: it cannot be read \(its labels\.npy unpacks to 100,663,296 bytes, more than the 1,040 allowed",
        lambda: load(Arrays, tmp_path / "labels.npz", tmp_path),
    )


def test_moments_in_an_npz(tmp_path, monkeypatch):
    path = tmp_path / "moments.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("mu.npy", "sigma.npy"):
            large(archive, name)
    monkeypatch.setattr(given_files, "_MOST", LARGE - 1)
    given = Given(path, 1000, any_data=True)
    refused("cannot be read as an .npz", lambda: given_files._read_npz(given, None, (), (3, 8, 8), None))


def head(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("end", [".npy", ".npz"])
def test_an_array_whose_head_declares_more_than_there_is(end, tmp_path):
    path, content = tmp_path / f"a{end}", head((2**50, 8, 8))
    if end == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(ValueError, match=rf"a{end}: it cannot be read"):  # numpy asks for the memory, and gets none
        load(Arrays, path, tmp_path)


def test_gzipped_idx_files(tmp_path, monkeypatch):
    monkeypatch.setattr("denoiselab.data.sources.mnist._MOST", 2**20)
    for name, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
        with gzip.open(tmp_path / f"train-{name}-ubyte.gz", "wb", compresslevel=1) as file:
            file.write(bytes((0, 0, 8, dimensions)) + struct.pack(">I", LARGE))
            for _ in range(LARGE // 2**20):
                file.write(bytes(2**20))
    says = r"train-images-idx3-ubyte\.gz: it unpacks to more than 1,048,576 bytes"
    refused(says, lambda: load(FashionMNIST, tmp_path, tmp_path))


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content, more in (("0.png", png(), {}), *members):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), more
            archive.addfile(info, io.BytesIO(content))


def test_members_of_a_shard(tmp_path):
    holes = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "0.txt"}
    holes["GNU.sparse.realsize"] = str(2**40)
    shard(tmp_path / "holes.tar", [("0.txt", b"0\n".ljust(512, b"\0"), holes)])
    refused(r"its member 0\.txt is not a regular file", lambda: load(WebDataset, tmp_path / "holes.tar", tmp_path))
    shard(tmp_path / "long.tar", [("0.txt", bytes(2**21), {})])
    refused(
        r"long\.tar/0\.txt: it has 2,097,152 bytes, more than",
        lambda: load(WebDataset, tmp_path / "long.tar", tmp_path),
    )


def test_text_in_a_picture(tmp_path):
    text = zlib.compress(bytes(LARGE), 1)
    chunk = b"zTXt" + b"Comment\0\0" + text
    content = png()
    packed = content[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes(packed + content[33:])
    del text, chunk
    says = r"data\.bad_images=fail: .*0\.png: "
    tracemalloc.start()
    with pytest.raises(ValueError, match=says):
        load(ImageFolder, tmp_path / "set", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < ALLOWED
    tracemalloc.stop()


def test_files_of_torch_are_not_compressed(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        large(archive, "a/data.pkl")
        archive.writestr("a/version", "3")
    refused("its a/data.pkl is compressed", lambda: read_torch(tmp_path / "a.pt"), InteropError)


def test_deep_structures(tmp_path):
    for name in ("dataset.json", "metadata.jsonl"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("0.png", png())
            archive.writestr(name, DEEP)
        refused(rf"its {name}", lambda name=name: load(ImageZip, tmp_path / f"{name}.zip", tmp_path))
    shard(tmp_path / "deep.tar", [("0.json", DEEP, {})])
    refused(r"deep\.tar/0\.json: it is neither a class", lambda: load(WebDataset, tmp_path / "deep.tar", tmp_path))
    shard(tmp_path / "a.tar", [])
    (tmp_path / "dataset.json").write_bytes(DEEP)
    refused(r"dataset\.json: damaged, or not written by", lambda: load(WebDataset, tmp_path / "a.tar", tmp_path))
