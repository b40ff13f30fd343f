"""Images of all kinds from folders, archives and arrays; and all that can be wrong with them."""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import shutil
import socket
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.data import Arrays, ImageFolder, ImageZip, RecordSet
from denoiselab.data.loading.batches import Reader
from denoiselab.data.reading import first_pass
from denoiselab.data.reading.columns import caption
from denoiselab.data.reading.decoding import Decoder
from denoiselab.data.reading.first_pass import unread
from denoiselab.data.reading.records import ArrayRecords
from denoiselab.data.sources.image_folder import FileRecords

RED, CLEAR_RED = (255, 0, 0), (255, 0, 0, 0)


def picture(size=8, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def encoded(image, kind="png"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """cats/0.png ... and dogs/deep/0.png ..., 8 x 8."""
    for number, (kind, n) in enumerate((("cats", 6), ("dogs/deep", 4))):
        (tmp_path / "root" / kind).mkdir(parents=True)
        for i in range(n):
            picture(seed=10 * number + i).save(tmp_path / "root" / kind / f"{i}.png")
    return tmp_path / "root"


def source(kind, root, **options):
    options = {"shape": (3, 8, 8), "num_classes": None, "validation": 0.0, **options}
    return kind(name="mine", root=str(root), cache_dir=str(root.parent / "cache"), **options)


def load(kind, root, **options):
    return source(kind, root, **options).load()[0]


def only(tmp_path, image, name="a.png", **options):
    """The bytes of one image in a folder of its own."""
    root = tmp_path / "one"
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(image if isinstance(image, bytes) else encoded(image))
    return load(ImageFolder, root, **options).stored(torch.tensor([0]))[0]


def test_a_folder_of_class_folders_is_read_in_order(folder):
    data = load(ImageFolder, folder, num_classes=2)
    assert data.labels.tolist() == [0] * 6 + [1] * 4
    expected = [np.asarray(picture(seed=s)) for s in (*range(6), *range(10, 14))]
    assert torch.equal(data.stored(torch.arange(10)), torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    assert load(ImageFolder, folder, labels="none").labels.unique().tolist() == [0]
    assert load(ImageFolder, folder, size=3).rows.tolist() == [0, 3, 6]


def test_decoded_and_undecoded_sets_are_the_same(folder):
    index = torch.tensor([7, 0, 7])
    mapped, read = load(ImageFolder, folder, workers=0), load(ImageFolder, folder, memory_limit=0.0, workers=0)
    assert type(mapped.pixels) is not type(read.pixels)
    assert mapped.fingerprint == read.fingerprint
    for data in (mapped, read):
        again = pickle.loads(pickle.dumps(data))
        assert torch.equal(again.stored(index), mapped.stored(index))
    assert len(pickle.dumps(mapped)) < 4000


def test_the_decoded_set_is_read_from_the_cache_until_the_files_change(folder, monkeypatch):
    first = load(ImageFolder, folder)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        assert load(ImageFolder, folder).fingerprint == first.fingerprint
    picture(9).save(folder / "cats" / "6.png")
    with pytest.raises(ValueError, match=r"6\.png: it is 9 x 9"):
        load(ImageFolder, folder)


def test_validation_is_split_by_hash_so_that_copies_never_part(tmp_path):
    for name in "ab":
        (tmp_path / "root" / name).mkdir(parents=True)
        for i in range(60):
            picture(4, seed=i).save(tmp_path / "root" / name / f"{i}.png")
    train, held_out = source(ImageFolder, tmp_path / "root", shape=(3, 4, 4), validation=0.3).load()
    assert len(train) + len(held_out) == 120
    assert 0.1 < len(held_out) / 120 < 0.5
    apart = [{part.stored(torch.tensor([i])).numpy().tobytes() for i in range(len(part))} for part in (train, held_out)]
    assert not apart[0] & apart[1]
    assert len(apart[0]) * 2 == len(train)


def test_files_of_equal_names_and_sizes_are_told_apart_by_when_they_were_written(tmp_path):
    """Bitmaps of one size all have one length; what is mended is read again, whatever was found before."""
    for name, seed in (("a", 0), ("b", 10)):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture(seed=seed + i).save(tmp_path / name / f"{i}.bmp")
    a, b = load(ImageFolder, tmp_path / "a"), load(ImageFolder, tmp_path / "b")
    assert a.fingerprint != b.fingerprint
    assert torch.equal(b.stored(torch.tensor([0]))[0], torch.from_numpy(np.array(picture(seed=10))).permute(2, 0, 1))
    (tmp_path / "b" / "0.bmp").write_bytes((tmp_path / "a" / "0.bmp").read_bytes())
    assert torch.equal(load(ImageFolder, tmp_path / "b").stored(torch.arange(3))[0], a.stored(torch.arange(3))[0])
    array = np.zeros((64, 256, 256), np.uint8)
    np.save(tmp_path / "it.npy", array)
    before = load(Arrays, tmp_path / "it.npy", shape=(1, 256, 256))
    array[33, 100] = 1
    np.save(tmp_path / "it.npy", array)
    assert load(Arrays, tmp_path / "it.npy", shape=(1, 256, 256)).fingerprint != before.fingerprint


def test_an_image_that_could_not_be_read_for_a_while_is_taken_again(folder, monkeypatch):
    def ill(path, *args, **options):
        if str(path).endswith("cats/3.png"):
            raise OSError(errno.EIO, "Input/output error")
        return well(path, *args, **options)

    well, n = Image.open, len(load(ImageFolder, folder))
    os.utime(folder / "cats" / "3.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", ill)
        assert len(load(ImageFolder, folder, bad_images="skip", workers=0)) == n - 1
        assert len(load(ImageFolder, folder, bad_images="skip", workers=0)) == n - 1
    assert len(load(ImageFolder, folder, bad_images="skip", workers=0)) == n


def test_without_a_first_pass_nothing_is_read_before_training(folder, monkeypatch):
    read_before, index = load(ImageFolder, folder), torch.arange(10)
    options = {"first_pass": False, "workers": 0}
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        data = load(ImageFolder, folder, **options)
        again = load(ImageFolder, folder, **options)
        train, held_out = source(ImageFolder, folder, validation=0.3, **options).load()
    assert torch.equal(data.stored(index), read_before.stored(index))
    assert data.fingerprint == again.fingerprint != read_before.fingerprint
    assert sorted([*train.rows.tolist(), *held_out.rows.tolist()]) == index.tolist()
    assert 0 < len(held_out) < 10
    picture(9).save(folder / "cats" / "6.png")
    (folder / "cats" / "7.png").write_bytes(b"no picture")
    other = load(ImageFolder, folder, **options)
    assert other.fingerprint != data.fingerprint
    for row, message in ((6, r"6\.png: it is 9 x 9"), (7, r"7\.png: not an image")):
        error = Reader(other.subset(torch.tensor([row])), 0)[range(1)]
        assert isinstance(error, ValueError)
        assert re.search(message, str(error))
    with pytest.raises(ValueError, match=r"bad_images=skip: it needs data\.first_pass=true"):
        source(ImageFolder, folder, bad_images="skip", **options)


def test_places_are_held_out_at_the_rate_that_is_asked():
    records = ArrayRecords("many", np.zeros((20_000, 1, 1), np.uint8), torch.zeros(20_000, dtype=torch.int64))
    hashes = unread(records).hashes
    assert len(np.unique(hashes, axis=0)) == 20_000
    decoder = Decoder((1, 1, 1), "none", 100)
    held_out = RecordSet.of(records, decoder, unread(records), 0).hashed_below(0.05)
    assert int(held_out.sum()) == pytest.approx(1000, abs=120)


def test_captions_come_from_metadata(folder):
    names = [*(f"cats/{i}.png" for i in range(6)), *(f"dogs/deep/{i}.png" for i in range(4))]
    lines = [json.dumps({"file_name": name, "text": f"picture\u2028of {name}"}, ensure_ascii=False) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    data = load(ImageFolder, folder)
    assert list(data.captions) == [f"picture\u2028of {name}" for name in names]
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,caption\n" + "".join(f'{name},"é, {name}"\n' for name in names))
    other = load(ImageFolder, folder)
    assert other.captions[9] == "é, dogs/deep/3.png"
    assert pickle.loads(pickle.dumps(other.captions))[-10:-8] == ["é, cats/0.png", "é, cats/1.png"]
    (folder / "metadata.csv").unlink()
    for text, message in (
        (
            '{"file_name": "cats/9.png", "text": "?"}\n' + "\n".join(lines),
            "captions of files that do not exist: cats/9.png",
        ),
        ("\n".join(lines[:-1]), "no captions of dogs/deep/3.png"),
        ("\n".join([*lines, lines[0]]), "line 11: cats/0.png is listed twice"),
        ('{"file": "cats/0.png"}', "line 1: it must have file_name"),
        ("\n".join([*lines, '{"file_name": "9.png", "text": ""}']), "do not exist: 9.png"),
        (
            lines[0].replace("picture", "\\udc80"),
            r"metadata\.jsonl, line 1: the caption contains .udc80, half of a character",
        ),
        ("\n".join([lines[0], "{"]), r"metadata\.jsonl, line 2: cannot be read \(Expecting property name"),
    ):
        (folder / "metadata.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(ImageFolder, folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file_name,caption\ncats/0.png,a red, big apple\n")
    with pytest.raises(ValueError, match=r"metadata\.csv, line 2: .*in quotes"):
        load(ImageFolder, folder)


def test_the_caption_of_a_cell_with_half_a_character_is_refused():
    with pytest.raises(ValueError, match=r"data\.caption=text: the caption contains .ud800,"):
        caption(["a \ud800"], "text")


def test_captions_may_lie_in_the_folders_of_their_images(folder):
    for inner, n in (("cats", 6), ("dogs", 4)):
        lines = (f"{'deep/' * (inner == 'dogs')}{i}.png,{inner} {i}\n" for i in range(n))
        (folder / inner / "metadata.csv").write_text("file_name,text\n" + "".join(lines))
    captions = [*(f"cats {i}" for i in range(6)), *(f"dogs {i}" for i in range(4))]
    assert list(load(ImageFolder, folder).captions) == captions
    with zipfile.ZipFile(folder.parent / "it.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    assert list(load(ImageZip, folder.parent / "it.zip").captions) == captions
    (folder / "dogs" / "metadata.csv").unlink()
    with pytest.raises(ValueError, match=r"no captions of dogs/deep/0\.png"):
        load(ImageFolder, folder)


def test_files_passed_over_for_their_extension_are_counted_and_named(folder, caplog):
    for name in ("cats/b.HEIC", "cats/a.heic", "dogs/IMG_1", "notes.txt", ".hidden"):
        (folder / name).write_bytes(b"?")
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))]
    captions = "file_name,text\n" + "".join(f"{name},x\n" for name in names)
    (folder / "metadata.csv").write_text(captions)
    path = folder.parent / "it.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
        archive.writestr("dataset.json", "{}")
    told = "2 of .heic (cats/a.heic, ...), 1 without an extension (dogs/IMG_1), 1 of .txt (notes.txt)"
    for kind, root in ((ImageFolder, folder), (ImageZip, path)):
        caplog.clear()
        assert len(source(kind, root).records()) == 10
        (message,) = caplog.messages
        assert message.startswith(f"data.root={root}: skipped 4 files without an image's extension: 2 of .heic (cats/")
        assert sorted(message.partition("extension: ")[2].split(", 1")) == sorted(told.split(", 1"))
        source(kind, root).records()
        assert len(caplog.messages) == 1  # said once, however often the files are listed
    (folder / "metadata.csv").unlink()
    for picture_file in folder.rglob("*.png"):
        picture_file.unlink()
    with pytest.raises(
        ValueError, match=r"no image in it; supported are .*; skipped: 2 of \.heic \(cats/a\.heic, \.\.\.\)"
    ):
        load(ImageFolder, folder)


def test_two_tables_of_captions_in_one_folder_are_refused(folder):
    path = folder.parent / "it.zip"
    for file in ("metadata.jsonl", "metadata.csv"):
        (folder / "cats" / file).write_text("")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    said = r"metadata\.\w+: its folder has a second table; keep one of metadata\.jsonl and metadata\.csv"
    for kind, root in ((ImageFolder, folder), (ImageZip, path)):
        with pytest.raises(ValueError, match=said):
            load(kind, root)


def test_a_link_to_nothing_is_a_bad_image_if_it_is_called_one(folder):
    (folder / "README").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    assert len(load(ImageFolder, folder)) == 10
    (folder / "cats" / "link.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"link\.png: No such file"):
        load(ImageFolder, folder)
    assert len(load(ImageFolder, folder, bad_images="skip")) == 10


@pytest.mark.parametrize("memory_limit", [2.0, 0.0])
def test_what_would_be_waited_for_is_a_bad_image(folder, memory_limit):
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "cats" / "pipe.png")
    (folder / "cats" / "link.png").symlink_to("pipe.png")
    (folder / "dogs" / "null.png").symlink_to("/dev/null")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server, contextlib.chdir(folder):
        server.bind("dogs/socket.png")
    options = {"memory_limit": memory_limit, "workers": 0}
    with pytest.raises(ValueError, match=r"cats/link\.png: not a regular file, but a pipe"):
        load(ImageFolder, folder, **options)
    data = load(ImageFolder, folder, bad_images="skip", **options)
    assert (len(data), len(data.stored(torch.arange(10)))) == (10, 10)
    (report,) = (folder.parent / "cache").glob("data-*/bad_images.txt")
    assert len(report.read_text().splitlines()) == 4


def test_an_archive_is_read_in_place(tmp_path):
    path = tmp_path / "data.zip"

    def write(labels, names=("00000/b.png", "00000/a.png"), meta="dataset.json"):
        with zipfile.ZipFile(path, "w") as file:
            for seed, name in enumerate(names):
                file.writestr(name, encoded(picture(seed=seed)))
            file.writestr(meta, json.dumps({"labels": labels}))
        return source(ImageZip, path, memory_limit=0.0, workers=0)

    data = write([["00000/a.png", 7], ["00000/b.png", 2]]).load()[0]
    assert data.labels.tolist() == [7, 2]
    assert torch.equal(data.stored(torch.tensor([1])), load(ImageZip, path).stored(torch.tensor([1])))
    assert data.stored(torch.tensor([1]))[0, :, 0, 0].tolist() == list(picture(seed=0).getpixel((0, 0)))
    assert write(None).load()[0].labels.tolist() == [0, 0]
    for labels, message in (
        ([["00000/c.png", 1]], "labels of files that do not exist: 00000/c.png"),
        ([["00000/a.png", 1]], "no labels of 00000/b.png"),
        ([["00000/a.png", 1.5], ["00000/b.png", 1]], "1.5 for 00000/a.png"),
        ([["00000/a.png", True], ["00000/b.png", 1]], "True for 00000/a.png"),
        ([["00000/a.png", 2**70], ["00000/b.png", 1]], "for 00000/a.png"),
        (3, "dataset.json is not"),
    ):
        with pytest.raises(ValueError, match=message):
            write(labels).load()
    for outside in ("../a.png", "/a.png", "x/..\\a.png", "C:\\a.png"):
        with pytest.raises(ValueError, match="unsafe path"):
            write(None, [outside]).load()
    with pytest.raises(ValueError, match="no image in it"):
        write(None, ["a.txt"]).load()
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(ValueError, match=r"it contains a\.png twice"):
        write(None, ["a.png", "a.png"]).load()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="not a zip archive"):
        load(ImageZip, path)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
@pytest.mark.parametrize("kind", [".npy", ".npz"])
def test_arrays_of_any_layout_are_read(tmp_path, layout, kind):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    stored = {"NHWC": images, "NCHW": images.transpose(0, 3, 1, 2), "NHW": images[..., 0]}[layout]
    path, labels = tmp_path / f"a{kind}", np.arange(5)
    if kind == ".npz":
        np.savez(path, stored, labels)  # arr_0 and arr_1
        data = load(Arrays, path)
    else:
        np.save(path, stored)
        np.save(tmp_path / "labels.npy", labels)
        data = load(Arrays, path, labels=str(tmp_path / "labels.npy"), memory_limit=0.0, workers=0)
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    expected = images.transpose(0, 3, 1, 2) if layout != "NHW" else np.repeat(images[:, None, :, :, 0], 3, 1)
    assert torch.equal(data.stored(torch.arange(5)), torch.from_numpy(expected))
    with pytest.raises(ValueError, match=r"data\.num_classes=3: .* has 5 classes"):
        load(Arrays, path, num_classes=3, labels=None if kind == ".npz" else str(tmp_path / "labels.npy"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, "its images are float32"),
        ({"images": np.zeros((8, 8), np.uint8)}, r"of shape \[8, 8\]"),
        ({"pictures": np.zeros((2, 8, 8), np.uint8)}, "it contains pictures, and none of images"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, r"labels are int64 of shape \[3\]"),
        ({"images": np.zeros((1, 8, 8), np.uint8), "labels": np.array([2**63], np.uint64)}, "labels are uint64"),
        ({"images": np.array([None, {}])}, "cannot be read .*pickle"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "has no images"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load(Arrays, tmp_path / "a.npz")


def test_labels_that_cannot_be_used_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    labels = tmp_path / "labels.npy"
    for write, message in (
        (lambda: None, "there is no such file"),
        (lambda: labels.write_text("?"), "it cannot be read .*pickle"),
        (lambda: labels.write_bytes(b""), "it cannot be read .*No data left"),
        (lambda: np.save(labels, np.zeros(3, int)), r"they are int64 of shape \[3\]; expected are 2 whole numbers"),
        (lambda: np.savez(labels.open("wb"), np.zeros(2, int)), "it contains several arrays"),
    ):
        write()
        with pytest.raises(ValueError, match=rf"^data\.labels={labels}: {message}"):
            load(Arrays, tmp_path / "a.npy", labels=str(labels))


@pytest.mark.parametrize("kind", [ImageFolder, ImageZip, Arrays])
def test_what_is_not_there_or_of_another_kind_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"data\.root=.*there is no such f"):
        load(kind, tmp_path / "nothing")
    if kind is ImageFolder:
        for suffix, hint in ((".zip", "use data=image_zip"), (".npz", "use data=arrays"), (".txt", "not a folder")):
            (tmp_path / f"a{suffix}").touch()
            with pytest.raises(ValueError, match=hint):
                load(kind, tmp_path / f"a{suffix}")
    else:
        with pytest.raises(ValueError, match="it is a folder; use data=image_folder"):
            load(kind, tmp_path)


def test_folders_that_hold_too_little_or_too_much_are_refused(folder):
    empty = folder.parent / "empty"
    empty.mkdir()
    (empty / "notes.txt").touch()
    (empty / ".hidden.png").touch()
    with pytest.raises(ValueError, match="there is no image in it"):
        load(ImageFolder, empty)
    (folder / "birds" / "none").mkdir(parents=True)
    with pytest.raises(ValueError, match="class folder birds has no image"):
        load(ImageFolder, folder)
    (folder / "birds" / "none").rmdir()
    (folder / "birds").rmdir()
    with pytest.raises(ValueError, match=r"data\.num_classes=3: .* has 2 classes"):
        load(ImageFolder, folder, num_classes=3)
    picture().save(folder / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png is not in a class folder"):
        load(ImageFolder, folder)


def test_a_folder_may_link_to_itself(folder):
    (folder / "cats" / "again").symlink_to(folder)
    assert len(load(ImageFolder, folder, num_classes=2)) == 10


BAD = {
    "zero.png": b"",
    "cut.png": encoded(picture(64))[:-200],
    "cut.jpg": encoded(picture(64), "jpeg")[:-500],
    "noise.png": bytes(range(256)) * 4,
    "text.jpg": b"not an image",
    "float.tif": encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "tiff"),
    "bomb.png": encoded(Image.new("1", (3000, 3000))),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("memory_limit", [0.0, 2.0])
def test_one_bad_image_is_named_or_left_out_and_reported(folder, name, memory_limit, caplog):
    (folder / "cats" / name).write_bytes(BAD[name])
    options = {"memory_limit": memory_limit, "max_pixels": 1_000_000, "workers": 0}
    with pytest.raises(ValueError, match=rf"data\.bad_images=fail: .*cats/{name}: .*data\.bad_images=skip"):
        load(ImageFolder, folder, **options)
    data = load(ImageFolder, folder, bad_images="skip", **options)
    assert (len(data), data.labels.tolist()) == (10, [0] * 6 + [1] * 4)
    assert len(data.stored(torch.arange(10))) == 10
    assert "1 of 11 images" in caplog.text
    (report,) = (folder.parent / "cache").glob("*/bad_images.txt")
    assert report.read_text().count("\n") == 1
    assert f"cats/{name}: " in report.read_text()
    with pytest.raises(ValueError, match=name):  # what was found is remembered, and not what was asked
        load(ImageFolder, folder, **options)


@pytest.mark.parametrize("memory_limit", [0.0, 2.0])
@pytest.mark.parametrize("mended", [False, True])
def test_a_stopped_pass_goes_on_and_ends_as_one_that_was_not(folder, monkeypatch, memory_limit, mended):
    (folder / "cats" / "1.png").write_bytes(b"no picture")
    options = {"memory_limit": memory_limit, "workers": 0, "bad_images": "skip"}
    straight = load(ImageFolder, folder, **options)
    shutil.rmtree(folder.parent / "cache")
    seen, image, ill = [], FileRecords.image, [1]
    monkeypatch.setattr(first_pass, "_OFTEN", -1.0)
    monkeypatch.setattr(first_pass, "_CHUNK", 2)

    def stops(self, i):
        seen.append(i)
        if len(seen) == 6:
            raise KeyboardInterrupt
        if i in ill:
            raise OSError("it is ill")
        return image(self, i) if i != 1 else picture()

    monkeypatch.setattr(FileRecords, "image", stops)
    with pytest.raises(KeyboardInterrupt):
        load(ImageFolder, folder, **options)
    (notes,) = (folder.parent / "cache").glob(".*.partial/notes.jsonl")
    with notes.open("a") as file:
        file.write('\n[4, "00')  # by a program that was killed
    if mended:
        ill.clear()
    data = load(ImageFolder, folder, **options)
    assert seen[:6] == [0, 1, 2, 3, 4, 5]
    if mended:
        assert seen[7:17] == list(range(10))
        assert len(data) == 10
        return
    assert seen[6:13] == [1, 4, 5, 6, 7, 8, 9]
    assert data.fingerprint == straight.fingerprint
    assert data.rows.tolist() == [0, *range(2, 10)]
    assert torch.equal(data.stored(torch.arange(9)), straight.stored(torch.arange(9)))
    (kept,) = (folder.parent / "cache").glob("data-*/")
    assert not (kept / "notes.jsonl").exists()
    assert not list((folder.parent / "cache").glob(".*"))


@pytest.mark.parametrize("name", ["images.npy", "sha256.npy", "bad.json"])
def test_a_damaged_cache_is_made_anew(folder, name):
    first = load(ImageFolder, folder)
    pixels = first.stored(torch.arange(10))
    (path,) = (folder.parent / "cache").glob(f"*/{name}")
    whole = path.read_bytes()
    for content in (None, whole[:-1], b"", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        again = load(ImageFolder, folder)
        assert again.fingerprint == first.fingerprint
        assert torch.equal(again.stored(torch.arange(10)), pixels)


@pytest.mark.parametrize("resize", ["center_crop", "random_crop"])
def test_an_image_that_scaling_would_blow_up_is_a_bad_one(folder, resize):
    options = {"resize": resize, "max_pixels": 1_000_000, "workers": 0}
    Image.new("1", (9_000, 1)).save(folder / "cats" / "long.png")
    assert len(load(ImageFolder, folder, **options)) == 11  # 72,000 x 8
    Image.new("1", (1, 20_000)).save(folder / "cats" / "long.png")
    with pytest.raises(ValueError, match=r"long\.png: 1 x 20000 pixels become .* more than data\.max_pixels=1000000"):
        load(ImageFolder, folder, **options)
    assert len(load(ImageFolder, folder, bad_images="skip", **options)) == 10


def test_a_set_of_bad_images_alone_is_refused(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"bad_images=skip: none of the 10 images of .* can be read; the first: .*0\.png"
    ):
        load(ImageFolder, folder, bad_images="skip")


def test_a_full_disk_is_a_sentence_and_nothing_is_left_behind(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = folder.parent / "cache"
    sentence = r"data\.cache_dir=.*: the decoded images need 0 MB, and .* MB are free \(No space left on device\)"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ValueError, match=sentence):
            load(ImageFolder, folder)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 1000, 1000))
        with pytest.raises(ValueError, match=sentence):
            load(ImageFolder, folder)
    (lock,) = cache.iterdir()
    (cache / f".{lock.stem}.partial").mkdir()  # by a program that was killed
    (cache / f".{lock.stem}.partial" / "images.npy").touch()
    load(ImageFolder, folder)
    assert sorted(path.name for path in cache.iterdir()) == [lock.stem, lock.name]
    (images,) = cache.glob("*/images.npy")
    assert images.stat().st_blocks * 512 >= images.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 1000, 0))
    assert len(load(ImageFolder, folder)) == 10  # nothing is needed any more


@pytest.fixture
def nobody():
    """As a user to whom something can be denied; a folder of this user's."""
    with tempfile.TemporaryDirectory() as name:
        if root := os.geteuid() == 0:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_permission_denied(nobody):
    kind = nobody / "root" / "cats"
    kind.mkdir(parents=True)
    picture().save(kind / "0.png")
    (kind / "0.png").chmod(0)
    with pytest.raises(ValueError, match=r"cats/0\.png: Permission denied"):
        load(ImageFolder, nobody / "root")
    kind.chmod(0)
    with pytest.raises(ValueError, match=r"cats cannot be read \(Permission denied\)"):
        load(ImageFolder, nobody / "root")
    kind.chmod(0o700)


def test_a_file_that_breaks_after_it_was_checked_is_named(folder):
    data = load(ImageFolder, folder, memory_limit=0.0, workers=0)
    (folder / "cats" / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cats/3\.png: not an image"):
        data.stored(torch.tensor([3]))


def test_alpha_is_laid_on_white(tmp_path):
    assert only(tmp_path, Image.new("RGBA", (8, 8), CLEAR_RED)).unique().tolist() == [255]
    half = only(tmp_path, Image.new("RGBA", (8, 8), (0, 0, 0, 128)), shape=(1, 8, 8))
    assert half.unique().tolist() == [127]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = 1
    assert only(tmp_path, palette).unique().tolist() == [255]
    assert only(tmp_path, Image.new("LA", (8, 8), (0, 0))).unique().tolist() == [255]


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.full((8, 8), 257 * 100, np.uint16)
    values[0, 0], values[0, 1] = 65535, 0
    image = only(tmp_path, Image.fromarray(values), shape=(1, 8, 8))
    assert image.unique().tolist() == [0, 100, 255]
    (tmp_path / "one" / "a.png").unlink()
    pgm = encoded(Image.fromarray(values), "ppm")
    assert torch.equal(only(tmp_path, pgm, "a.pgm", shape=(1, 8, 8)), image)
    np.save(tmp_path / "a.npy", values[None])
    assert torch.equal(load(Arrays, tmp_path / "a.npy", shape=(1, 8, 8)).stored(torch.tensor([0]))[0], image)


def test_integers_of_an_unknown_range_are_refused(tmp_path):
    for kind, mode in ((np.int32, "I"), (np.float32, "F")):
        image = Image.fromarray(np.full((8, 8), 200).astype(kind))
        with pytest.raises(ValueError, match=rf"range of its values \(mode {mode}\)"):
            only(tmp_path, encoded(image, "tiff"), "a.tif", shape=(1, 8, 8))
    assert only(tmp_path, encoded(Image.fromarray(np.zeros((8, 8), np.uint16))), "a.tif", shape=(1, 8, 8)).max() == 0
    signed = np.full((1, 8, 8), 200, np.int16)
    for array in (signed, signed.astype(np.float32), signed.astype(np.uint32)):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=f"its images are {array.dtype} of shape"):
            load(Arrays, tmp_path / "a.npy", shape=(1, 8, 8))


def test_names_that_are_no_text_are_reported(folder):
    (folder / "cats" / os.fsdecode(b"\xfe.png")).write_bytes(b"no picture")
    assert len(load(ImageFolder, folder, bad_images="skip")) == 10
    (report,) = (folder.parent / "cache").glob("*/bad_images.txt")
    assert "cats/\\udcfe.png: not an image" in report.read_text()


def test_other_colours_and_frames_are_made_plain(tmp_path):
    assert only(tmp_path, encoded(Image.new("CMYK", (8, 8)), "jpeg"), "a.jpg").min() >= 254  # no ink
    frames = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(frames, "gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    (tmp_path / "one" / "a.jpg").unlink()
    assert only(tmp_path, frames.getvalue(), "a.gif")[:, 0, 0].tolist() == [255, 0, 0]
    grey = only(tmp_path, Image.new("RGB", (8, 8), RED), "0.png", shape=(1, 8, 8))
    assert grey.unique().tolist() == [76]  # ITU-R 601-2 luma
    (tmp_path / "one" / "0.png").unlink()
    (tmp_path / "one" / "a.gif").unlink()
    assert only(tmp_path, Image.new("L", (8, 8), 9))[:, 0, 0].tolist() == [9, 9, 9]


def test_a_photograph_stands_upright(tmp_path):
    image = Image.new("RGB", (8, 4), "white")
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    file = io.BytesIO()
    image.save(file, "jpeg", exif=exif)
    assert only(tmp_path, file.getvalue(), "a.jpg", shape=(3, 8, 4)).shape == (3, 8, 4)


def adm_center_crop(image, size):
    """As Dhariwal and Nichol describe it, for squares."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = size / min(image.size)
    array = np.array(image.resize(tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC))
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (70, 33), (5, 6), (16, 16)])
def test_center_crop_is_adms(tmp_path, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    expected = torch.from_numpy(adm_center_crop(image, 8)).permute(2, 0, 1)
    assert torch.equal(only(tmp_path, image, resize="center_crop"), expected)


def test_other_sizes_are_stretched_padded_or_refused(tmp_path):
    image = picture(6)
    with pytest.raises(ValueError, match=r"a\.png: it is 6 x 6, and data\.shape=\[3, 8, 8\]; set data\.resize="):
        only(tmp_path, image)
    for shape, said in (((3, 8, 8), "random_crop, stretch or pad, or"), ((3, 8, 4), "random_crop or stretch, or")):
        with pytest.raises(ValueError, match=said):  # what pad cannot do is not advised
            only(tmp_path, image, shape=shape)
    padded = only(tmp_path, image, resize="pad")
    assert torch.equal(padded[:, 1:7, 1:7], torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert int(padded[:, 0].sum() + padded[:, :, 7].sum()) == 0
    wide = only(tmp_path, image, resize="stretch", shape=(3, 8, 16))
    expected = np.asarray(image.resize((16, 8), Image.Resampling.LANCZOS))
    assert np.array_equal(wide.permute(1, 2, 0).numpy(), expected)
    with pytest.raises(ValueError, match=r"larger than data\.shape"):
        only(tmp_path, image, resize="pad", shape=(3, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2, 8, 8)}, r"data\.shape=\[2, 8, 8\]"),
        ({"shape": (3, 8)}, r"data\.shape=\[3, 8\]"),
        ({"validation": 1.0}, r"data\.validation=1\.0"),
        ({"size": 0}, r"data\.size=0"),
        ({"workers": -1}, r"data\.workers=-1"),
        ({"memory_limit": float("nan")}, r"data\.memory_limit=nan: it must be at least 0"),
        ({"memory_limit": -0.5}, r"data\.memory_limit=-0\.5"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        source(ImageFolder, tmp_path, **options)


def test_a_cache_that_cannot_be_written_is_named(folder):
    (folder.parent / "file").touch()
    with pytest.raises(ValueError, match=r"data\.cache_dir=.*cannot be written to"):
        ImageFolder(
            name="mine",
            shape=(3, 8, 8),
            num_classes=None,
            root=str(folder),
            cache_dir=str(folder.parent / "file" / "x"),
        ).load()


@pytest.mark.slow
def test_twenty_bad_files_of_ten_thousand_are_reported(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    good = [encoded(picture(4, seed)) for seed in range(50)]
    for i in range(10_000):
        (root / f"{i:05d}.png").write_bytes(good[i % 50])
    bad = sorted(np.random.default_rng(0).choice(10_000, 20, replace=False).tolist())
    for k, i in enumerate(bad):
        path = root / f"{i:05d}.png"
        path.write_bytes((b"", path.read_bytes()[:40], b"junk", path.read_bytes()[:-40])[k % 4])
    data = load(ImageFolder, root, shape=(3, 4, 4), bad_images="skip")
    assert len(data) == 9980
    (report,) = (tmp_path / "cache").glob("*/bad_images.txt")
    assert [line.split(": ")[0] for line in report.read_text().splitlines()] == [
        str(root / f"{i:05d}.png") for i in bad
    ]
