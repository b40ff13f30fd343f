"""LitData's optimised sets, from a folder and from an address, which stands for an object store."""

import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from litdata.streaming import Cache, downloader
from litdata.streaming.writer import index_parquet_dataset
from PIL import Image
from pyarrow import parquet

from denoiselab.data import LitData
from denoiselab.data.loading.batches import Batches
from denoiselab.files import write_sum

N = 23


def pixels(i, channels=3):
    return np.random.default_rng(i).integers(0, 256, (8, 8, channels), np.uint8)


def encoded(i, kind="png"):
    file = io.BytesIO()
    Image.fromarray(pixels(i)).save(file, kind)
    return file.getvalue()


def write(folder, samples, chunk_size=5):
    cache = Cache(str(folder), chunk_size=chunk_size)
    for i, sample in enumerate(samples):
        cache[i] = sample
    cache.done()
    cache.merge()
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """23 samples of bytes, in chunks of 5."""
    samples = ({"image": encoded(i), "kind": "ab"[i % 2], "text": f"number {i}"} for i in range(N))
    return write(tmp_path_factory.mktemp("optimised") / "set", samples)


def source(root, cache, **options):
    options = {"shape": (3, 8, 8), "num_classes": None, "validation": 0.0, "workers": 0, **options}
    return LitData(name="it", root=str(root), cache_dir=str(cache), **options)


def load(root, cache, **options):
    return source(root, cache, **options).load()[0]


def take(data, start, count):
    batches = iter(Batches(data, 0, 4, start))
    return [next(batches) for _ in range(count)]


def same(batches, expected):
    pairs = list(zip(batches, expected, strict=True))
    return all(a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a) for a, b in pairs)


def _equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_samples_are_taken_by_key(root, tmp_path):
    data = load(root, tmp_path, label="kind", caption="text", num_classes=2)
    assert data.labels.tolist() == [i % 2 for i in range(N)]
    assert list(data.captions) == [f"number {i}" for i in range(N)]
    expected = np.stack([pixels(i) for i in range(N)]).transpose(0, 3, 1, 2)
    assert torch.equal(data.stored(torch.arange(N)), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "image",
    [pixels, lambda i: Image.fromarray(pixels(i)), lambda i: torch.from_numpy(pixels(i)).permute(2, 0, 1), encoded],
    ids=["array", "Pillow", "tensor", "bytes"],
)
def test_images_of_any_kind_are_read_one_by_one_from_an_address(image, tmp_path):
    write(tmp_path / "set", ({"picture": image(i), "size": np.array([8, 8])} for i in range(7)))
    data = load(f"local:{tmp_path / 'set'}", tmp_path, image="picture", fetch="image", first_pass=False)
    expected = np.stack([pixels(i) for i in (6, 0, 3)]).transpose(0, 3, 1, 2)
    assert torch.equal(data.stored(torch.tensor([6, 0, 3])), torch.from_numpy(expected))


def test_photographs_that_litdata_decodes_are_those_of_pillow(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(i, "jpeg"))
    photographs = [Image.open(tmp_path / f"{i}.jpg") for i in range(3)]
    write(tmp_path / "set", ({"image": image} for image in photographs))
    got = load(tmp_path / "set", tmp_path).stored(torch.arange(3))
    expected = np.stack([np.asarray(image) for image in photographs]).transpose(0, 3, 1, 2)
    assert (got.int() - torch.from_numpy(expected).int()).abs().max() <= 1


def test_other_processes_read_the_same_batches_from_an_address_at_any_step(root, tmp_path):
    whole = take(load(root, tmp_path / "a", label="kind", caption="text", memory_limit=0.0), 0, 12)
    address, options = f"local:{root}", {"label": "kind", "caption": "text", "memory_limit": 0.0}
    data = load(address, tmp_path / "b", workers=2, **options)
    assert data.fingerprint == load(root, tmp_path / "a", **options).fingerprint
    assert same(take(data, 20, 7), whole[5:])
    again = pickle.loads(pickle.dumps(load(address, tmp_path / "c", first_pass=False, **options)))
    assert same(take(again, 40, 2), whole[10:])
    assert again.fingerprint == load(root, tmp_path / "d", first_pass=False, **options).fingerprint


def test_tables_of_the_hub_are_fetched_file_by_file(tmp_path, monkeypatch):
    """With the index at hand and a copy in place of a download, as no test has a network."""
    tables, cache = tmp_path / "tables", tmp_path / "cache"
    tables.mkdir()
    (cache / "litdata").mkdir(parents=True)
    for k in range(2):
        numbers = range(7 * k, 7 * k + 7)
        cells = [{"bytes": encoded(i), "path": f"{i}.png"} for i in numbers]
        parquet.write_table(pa.table({"img": cells, "number": numbers}), tables / f"train-{k}.parquet", 3)
    index_parquet_dataset(str(tables), str(cache / "litdata"), num_workers=1)
    index = cache / "litdata" / "index.json"

    class Copy(downloader.LocalDownloader):
        def download_file(self, remote_filepath, local_filepath):
            super().download_file(str(tables / Path(remote_filepath).name), local_filepath)

    monkeypatch.setitem(downloader._DOWNLOADERS, "hf://", Copy)
    fingerprints, orders = set(), set()
    expected = np.stack([pixels(i) for i in range(14)]).transpose(0, 3, 1, 2)
    for _ in range(2):  # the files as they may be found, at two times
        data = load("hf://datasets/me/mine", cache, image="img", label="number", first_pass=False)
        assert data.labels.tolist() == list(range(14))
        assert torch.equal(pickle.loads(pickle.dumps(data)).stored(torch.arange(14)), torch.from_numpy(expected))
        fingerprints.add(data.fingerprint)
        orders.add(data.pixels.records._contents.chunks[0]["filename"])
        found = json.loads(index.read_text())
        index.write_text(json.dumps({**found, "chunks": found["chunks"][::-1], "updated_at": "7"}))
    assert (len(fingerprints), len(orders)) == (1, 2)


def test_classes_are_read_once_and_anew_of_a_new_set(root, tmp_path):
    options = {"label": "kind", "first_pass": False}
    first = load(root, tmp_path / "cache", **options)
    (kept,) = (tmp_path / "cache").glob("litdata-*.json")
    kept.write_text(kept.read_text().replace("a", "c"))
    write_sum(kept)
    assert load(root, tmp_path / "cache", **options).labels.tolist() == [1 - label for label in first.labels.tolist()]
    other = write(tmp_path / "other", ({"image": encoded(i), "kind": i} for i in range(4)))
    assert load(other, tmp_path / "cache", **options).labels.tolist() == [0, 1, 2, 3]
    part = source(root, tmp_path / "cache", validation_root=str(other), label="kind")
    assert len(part.load()[1]) == 4


def test_damage_is_named(tmp_path):
    write(tmp_path / "set", ({"image": encoded(i) if i != 3 else b"none"} for i in range(7)))
    with pytest.raises(ValueError, match=r"sample 3 of .*set: not an image"):
        load(tmp_path / "set", tmp_path)
    assert len(load(tmp_path / "set", tmp_path, bad_images="skip")) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"root": "nowhere"}, r"data\.root=.*nowhere: there is no folder .*needs index\.json and its chunks"),
        ({"root": "empty"}, r"empty' does not contain it; it needs index\.json"),
        ({"root": "local:nowhere"}, r"data\.root=local:nowhere: with data\.fetch=chunk LitData cannot read it"),
        ({"image": "picture"}, r"data\.image=picture: no such key .*they have image, kind, text"),
        ({"label": "class"}, r"data\.label=class: no such key"),
        ({"root": "tuples"}, r"they have none, they are tuple"),
        ({"label": "text", "root": "halves"}, r"data\.label=text: the column must hold names, or whole numbers"),
        ({"root": "local:set", "fetch": "image"}, r"with data\.fetch=image LitData cannot read it"),
    ],
)
def test_bad_input(options, says, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    (root.parent / "empty").mkdir(exist_ok=True)
    if options.get("root") == "tuples":
        write(tmp_path / "tuples", ((encoded(i), i) for i in range(3)))
    if options.get("root") == "halves":
        write(tmp_path / "halves", ({"image": encoded(i), "text": i / 2} for i in range(3)))
    name = options.pop("root", "set")
    given = {"root": tmp_path / name if name in ("tuples", "halves") else name, **options}
    with pytest.raises(ValueError, match=says):
        load(cache=tmp_path, **given)


def test_a_disk_without_room_for_all_chunks_is_refused(root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        ValueError,
        match=r"data\.root=local:.*set: with data\.fetch=chunk all its chunks are kept, .* and 1e-06 GB are free",
    ):
        load(f"local:{root}", tmp_path)


def test_the_extra_is_asked_for(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ValueError, match=r"pip install denoiselab\[litdata\]"):
        load(root, tmp_path)


class Hostile:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("address", ["{}", "local:{}"])
def test_pickled_samples_are_refused_unless_their_author_is_trusted(address, tmp_path):
    marker = tmp_path / "ran"
    write(tmp_path / "set", ({"image": encoded(i), "kind": Hostile(marker)} for i in range(3)))
    root = address.format(tmp_path / "set")
    for options in ({}, {"label": "kind"}, {"fetch": "image", "first_pass": False}):
        with pytest.raises(ValueError, match=r"data\.root=.*set: its index\.json declares samples of the format 'pick"):
            load(root, tmp_path / "cache", **options)
    assert not marker.exists()
    assert len(load(root, tmp_path / "cache", trust_pickles=True)) == 3
    assert marker.exists()  # so it was this that did not run before


def changed_index(folder, change):
    index = folder / "index.json"
    found = json.loads(index.read_text())
    change(found)
    index.write_text(json.dumps(found))


def renamed(name):
    return lambda found: found["config"]["data_format"].__setitem__(0, name)


def container(kind, context):
    def change(found):
        spec = {"type": kind, "context": context, "children_spec": json.loads(found["config"]["data_spec"])[1:]}
        found["config"]["data_spec"] = json.dumps([1, spec])

    return change


FACTORY = {
    "default_factory_module": "hostile",
    "default_factory_name": "x",
    "dict_context": '["image", "kind", "text"]',
}
ENUM = json.dumps([{"__enum__": True, "fqn": "hostile:x", "name": "y"}])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed("tensor:pickle"), "samples of the format 'pickle'"),  # by LitData's rule its pickles too
        (renamed("file:pickle"), "samples of the format 'pickle'"),
        (renamed("graph"), "samples of the format 'graph'"),  # pickles inside
        (renamed("pdf"), "samples of the format 'pdf'"),
        (container("collections.defaultdict", FACTORY), "containers of the type 'collections.defaultdict'"),
        (container("builtins.dict", ENUM), "containers of the type 'enum'"),
        (lambda found: found["chunks"][0].update(filename="../elsewhere.bin"), "lists a chunk outside of it"),
        (lambda found: found["chunks"][0].update(filename="/etc/passwd"), "lists a chunk outside of it"),
    ],
)
def test_an_index_that_names_code_or_other_folders_is_refused(change, says, root, tmp_path, monkeypatch):
    """The module `hostile`, which these structures import, makes a file."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nx = dict\n")
    shutil.copytree(root, tmp_path / "set")
    changed_index(tmp_path / "set", change)
    with pytest.raises(ValueError, match=says) as error:
        load(f"local:{tmp_path / 'set'}", tmp_path / "cache")
    assert not (tmp_path / "ran").exists()
    assert str(error.value).count(". ") == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "set", "hostile.py"}
