"""Data sets in their published folders and databases."""

import io
import pickle

import lmdb
import pytest
from PIL import Image

from denoiselab.data import AFHQ, FFHQ, LSUN, ImageNet


def of(kind, root, **options):
    return kind(**{"name": "it", "shape": [3, 64, 64], "num_classes": None, "root": str(root), **options})


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_imagenet_has_1000_synsets_and_their_names(tmp_path):
    synsets = [f"n{number:08d}" for number in range(1000)]
    touch(tmp_path, *(f"train/{synset}/{synset}_1.JPEG" for synset in synsets))
    data = of(ImageNet, tmp_path, num_classes=1000)
    train = data.records()
    assert (len(train), train.labels.tolist(), data.held_out()) == (1000, list(range(1000)), None)
    assert train.classes[0] == "tench"
    touch(tmp_path, *(f"val/{synset}/v.JPEG" for synset in synsets))
    assert len(data.held_out()) == 1000
    assert of(ImageNet, tmp_path / "train").records().identity == train.identity


@pytest.mark.parametrize("name", ["train/cat/1.JPEG", "cat/1.JPEG", "1.JPEG", "train.txt"])
def test_another_layout_than_imagenets_is_said(tmp_path, name):
    touch(tmp_path, name)
    with pytest.raises(ValueError, match=r"^data\.root=.*train/<synset>/\*\.JPEG, with 1,000 folders.*zip archive"):
        of(ImageNet, tmp_path).records()


def test_an_absent_folder_is_said():
    for kind in (ImageNet, AFHQ, FFHQ):
        with pytest.raises(ValueError, match=r"^data\.root=/nowhere.*no folder '/nowhere.*zip archive"):
            of(kind, "/nowhere").records()


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_afhq_has_three_animals_and_holds_out_its_test_images(tmp_path, held_out):
    touch(tmp_path, *(f"{part}/{animal}/1.png" for part in ("train", held_out) for animal in ("cat", "dog", "wild")))
    data = of(AFHQ, tmp_path)
    assert data.records().classes == ["cat", "dog", "wild"]
    assert data.held_out().root == tmp_path / held_out
    (tmp_path / "train" / "cat" / "1.png").unlink()
    (tmp_path / "train" / "cat").rmdir()
    with pytest.raises(ValueError, match="needs train/cat, train/dog and train/wild"):
        data.records()


def test_ffhq_takes_thumbnails_up_to_their_size(tmp_path):
    touch(tmp_path, "thumbnails128x128/00000/00000.png", "images1024x1024/00000/00000.png")
    assert of(FFHQ, tmp_path).records().root.name == "thumbnails128x128"
    assert of(FFHQ, tmp_path, shape=[3, 256, 256]).records().root.name == "images1024x1024"
    assert of(FFHQ, tmp_path / "thumbnails128x128").records().labels.tolist() == [0]
    touch(tmp_path / "others", "a.png")
    with pytest.raises(ValueError, match="needs thumbnails128x128 or images1024x1024, with folders 00000"):
        of(FFHQ, tmp_path / "others").records()


def jpeg(grey):
    file = io.BytesIO()
    Image.new("L", (9, 7), grey).save(file, "JPEG", quality=100)
    return file.getvalue()


def write_database(folder, content):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for key, grey in content.items():
            transaction.put(key.encode(), jpeg(grey))


def test_lsun_reads_its_databases_one_after_the_other(tmp_path):
    write_database(tmp_path / "bedroom_train_lmdb", {"b": 2, "a": 1})
    write_database(tmp_path / "tower_train_lmdb", {"c": 3})
    write_database(tmp_path / "bedroom_val_lmdb", {"d": 4})
    records = pickle.loads(pickle.dumps(of(LSUN, tmp_path, categories=["bedroom", "tower"]).records()))
    assert [records.image(i).getpixel((0, 0)) for i in range(3)] == [1, 2, 3]
    assert (records.labels.tolist(), records.classes) == ([0, 0, 1], ("bedroom", "tower"))
    assert records.describe(2) == f"{tmp_path}/tower_train_lmdb: c"
    one = of(LSUN, tmp_path, categories=["bedroom"])
    assert (one.records().classes, one.held_out().image(0).getpixel((0, 0))) == ((), 4)
    with pytest.raises(ValueError, match=r"needs tower_val_lmdb/data\.mdb"):
        of(LSUN, tmp_path, categories=["tower"]).held_out()


@pytest.mark.parametrize("categories", [[], ["bedroom", "bedroom"], ["bathroom"]])
def test_categories_that_are_none_are_refused(tmp_path, categories):
    with pytest.raises(ValueError, match=r"data\.categories"):
        of(LSUN, tmp_path, categories=categories)
