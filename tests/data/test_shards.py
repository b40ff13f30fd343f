import io
import json
import pickle
import tarfile

import pytest
import torch
from PIL import Image

from denoiselab.data import WebDataset


def png(grey, side=8):
    file = io.BytesIO()
    Image.new("L", (side, side), grey).save(file, "PNG")
    return file.getvalue()


def write(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def of(tmp_path, root=None, **options):
    cache = str(tmp_path / "cache")
    return WebDataset(
        name="it", shape=[1, 8, 8], num_classes=None, root=str(root or tmp_path), cache_dir=cache, **options
    )


ELEVEN = {"x/1.PNG": png(11), "x/1.CLS": b"0", "x/1.TXT": b"\xef\xbb\xbf eleven \r\n"}  # as Windows writes it


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / "a-00.tar", {"x/0.png": png(10), "x/0.cls": b"2", "x/0.txt": b"ten\n", **ELEVEN})
    write(tmp_path / "a-01.tar", {"2.json": b'{"label": 1, "caption": "twelve"}', "2.jpg": png(12), "2.seg.npy": b"?"})
    return tmp_path


def test_members_are_read_where_they_lie(shards):
    records = pickle.loads(pickle.dumps(of(shards).records()))
    assert [records.image(i).getpixel((3, 3)) for i in (2, 0, 1)] == [12, 10, 11]
    assert records.labels.tolist() == [2, 0, 1]
    assert list(records.captions) == ["ten", " eleven ", "twelve"]
    assert records.describe(1) == f"{shards}/a-00.tar/x/1.PNG"
    assert records.identity == of(shards).records().identity


def test_keys_without_an_image_are_counted_and_named(shards, caplog):
    of(shards).records()
    assert not caplog.messages  # what lies beside an image is for others
    write(shards / "a-02.tar", {"3.heic": b"?", "3.txt": b"three", "3.cls": b"0"})
    assert len(of(shards).records()) == 3
    assert f"data.root={shards}: skipped 1 file without an image's extension: 1 of .heic (3.heic)" in caplog.text
    with pytest.raises(ValueError, match=r"there is no image in it; supported are .*; skipped: 1 of \.heic"):
        of(shards, shards / "a-02.tar").records()


def test_the_index_is_made_once_and_again_when_a_shard_changes(shards):
    first = of(shards).records()
    (kept,) = (shards / "cache").glob("shards-*.json")
    (beside,) = (shards / "cache").glob("shards-*.sha256")
    whole, checksum = kept.read_text(), beside.read_text()
    kept.write_text(whole.replace("twelve", "twelvf"))
    assert list(of(shards).records().captions)[2] == "twelve"  # damaged: made anew
    assert (kept.read_text(), beside.read_text()) == (whole, checksum)
    kept.write_text(whole.replace("twelve", "kept"))
    beside.unlink()
    assert list(of(shards).records().captions)[2] == "kept"
    write(
        shards / "a-01.tar",
        {
            name: content
            for i in "23"
            for name, content in ((f"{i}.jpg", png(99)), (f"{i}.cls", b"1"), (f"{i}.txt", b"?"))
        },
    )
    again = of(shards).records()
    assert (len(first), len(again)) == (3, 4)
    assert again.image(2).getpixel((0, 0)) == 99
    assert again.identity != first.identity


def test_shards_that_are_not_whole_are_refused(shards):
    facts = {"classes": [], "shards": [{"name": "a-00.tar", "n": 2}, {"name": "a-01.tar", "n": 1}]}
    (shards / "dataset.json").write_text(json.dumps(facts))
    assert len(of(shards).records()) == 3
    whole = (shards / "a-00.tar").read_bytes()
    (shards / "a-00.tar").write_bytes(whole[: whole.index(b"x/1.PNG")])
    with pytest.raises(ValueError, match=r"a-00\.tar: truncated: its end-of-archive mark"):
        of(shards).records()
    write(shards / "a-00.tar", {"x/0.png": png(10)})
    with pytest.raises(ValueError, match=r"a-00\.tar has 1 images, but 2 by dataset\.json"):
        of(shards).records()
    (shards / "a-00.tar").unlink()
    with pytest.raises(ValueError, match=r"a-00\.tar has 0 images"):
        of(shards).records()
    assert len(of(shards, shards / "a-01.tar").records()) == 1


@pytest.mark.parametrize("pattern", ["a-{00..01}.tar", "a-*.tar", "."])
def test_shards_are_named_by_folder_range_or_pattern(shards, pattern):
    assert len(of(shards, shards / pattern).records()) == 3
    assert len(of(shards, shards / "a-01.tar").records()) == 1


def test_shards_make_a_data_set_with_named_classes(shards):
    (shards / "dataset.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    write(shards / "held.tar", {"5.png": png(5)})
    train, held_out = of(shards, shards / "a-*.tar", validation_root=str(shards / "held.tar")).load()
    assert train.stored(torch.arange(3))[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert held_out.stored(torch.arange(1)).unique().tolist() == [5]
    assert train.captions[2] == "twelve"


def link(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("0.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)


def cut(path):
    write(path, {"0.png": png(1), "1.png": bytes(9000)})
    path.write_bytes(path.read_bytes()[:6000])


BAD = {
    r"a\.tar: its member \.\./0\.png has an unsafe path": lambda path: write(path, {"../0.png": png(1)}),
    r"a\.tar: its member /tmp/0\.png has an unsafe path": lambda path: write(path, {"/tmp/0.png": png(1)}),
    r"a\.tar: its member 0\.png is not a regular file": link,
    r"a\.tar: damaged, truncated, or not a tar archive": cut,
    r"a\.tar: damaged, truncated, or not a tar archive \(": lambda path: path.write_bytes(b"no tar" * 200),
    r"a\.tar/0\.cls: it is neither a class": lambda path: write(path, {"0.png": png(1), "0.cls": b"cat"}),
    r"a\.tar/0\.json: it is neither a class": lambda path: write(path, {"0.png": png(1), "0.json": b'{"label": -1}'}),
    r"a\.tar/0\.json: it is neither a class, .*": lambda path: write(
        path, {"0.png": png(1), "0.json": b'{"label": true}'}
    ),
    r"a\.tar/0\.json: the caption contains .ud800,": lambda path: write(
        path, {"0.png": png(1), "0.json": b'{"caption": "a \\ud800"}'}
    ),
    r"a\.tar/1\.png: it has no class, but": lambda path: write(path, {"0.png": png(1), "0.cls": b"0", "1.png": png(1)}),
    r"a\.tar/1\.png: it has no caption": lambda path: write(path, {"0.png": png(1), "0.txt": b"0", "1.png": png(1)}),
    r"a\.tar: 0\.jpg is the second image": lambda path: write(path, {"0.png": png(1), "0.jpg": png(1)}),
    r"there is no image in it": lambda path: write(path, {"0.txt": b"?"}),
    r"a\.tar\.gz is compressed": lambda path: path.with_name("a.tar.gz").write_bytes(b""),
    r"needs shards, files of \.tar": lambda path: None,
    r"There are some in .*train\.": lambda path: write(path.parent / "train" / "a.tar", {"0.png": png(1)}),
}


@pytest.mark.parametrize(("said", "write_bad"), BAD.items(), ids=range(len(BAD)))
def test_bad_shards_are_named(tmp_path, said, write_bad):
    write_bad(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=said):
        of(tmp_path).records()


def test_a_range_with_a_hole_is_refused(shards):
    with pytest.raises(ValueError, match=r"needs the shard .*a-02\.tar"):
        of(shards, shards / "a-{00..02}.tar").records()
