import gzip
import json
import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image
from published.mnist import pixels, write_idx, write_mnist
from scipy.io import savemat

from denoiselab.data import CIFAR10, CIFAR100, MNIST, STL10, SVHN, CelebA, FashionMNIST, Flowers102, Food101


def source(kind, root, **options):
    return kind(name="it", shape=[3, 32, 32], num_classes=None, root=str(root), **options)


@pytest.mark.parametrize(
    ("kind", "folder", "zipped"),
    [(FashionMNIST, ".", True), (FashionMNIST, "FashionMNIST/raw", False), (MNIST, "MNIST/raw", False)],
)
def test_idx_files_give_the_official_splits(tmp_path, kind, folder, zipped):
    written = write_mnist(tmp_path / folder, zipped)
    data = source(kind, tmp_path)
    for records, (images, labels) in ((data.records(), written["train"]), (data.held_out(), written["t10k"])):
        assert np.array_equal(np.stack([records.image(i) for i in range(len(records))]), images)
        assert records.labels.tolist() == labels.tolist()
        assert len(records.classes) == 10
    assert data.records().identity != data.held_out().identity


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def cut_within(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))


def another_kind(path):
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x03" + bytes(100)))


def too_few_labels(path):
    write_idx(path.with_name("train-labels-idx1-ubyte.gz"), np.zeros(2, np.uint8), True)


def label_out_of_range(path):
    write_idx(path.with_name("train-labels-idx1-ubyte.gz"), np.full(6, 10, np.uint8), True)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, "damaged, truncated, or not a gzip file"),
        (cut_within, "4,701 bytes of elements, but its header declares"),
        (another_kind, "not an IDX file of bytes in 3 dimensions"),
        (too_few_labels, "2 labels, and .* has 6 images"),
        (label_out_of_range, "a label 10, of 10 classes"),
    ],
)
def test_broken_idx_files_are_named(tmp_path, harm, said):
    write_mnist(tmp_path)
    harm(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=f"train-.*{said}"):
        source(FashionMNIST, tmp_path).records()


@pytest.fixture
def unchecked(monkeypatch):
    """torchvision checks the files' hashes, which ours do not have."""
    for module in ("cifar", "svhn", "stl10", "celeba", "flowers102"):
        there = lambda path, md5=None: torchvision.datasets.utils.os.path.isfile(path)  # noqa: E731
        monkeypatch.setattr(getattr(torchvision.datasets, module), "check_integrity", there)


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_cifar10(root):
    folder, images = root / "cifar-10-batches-py", pixels(12, 3, 32, 32)
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        part = slice(2 * i, 2 * i + 2)
        write_pickle(folder / name, {"data": images[part].reshape(2, -1), "labels": [i, i + 1]})
    write_pickle(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    return images.transpose(0, 2, 3, 1)[:10], [0, 1, 1, 2, 2, 3, 3, 4, 4, 5], images.transpose(0, 2, 3, 1)[10:]


def write_cifar100(root):
    folder, images = root / "cifar-100-python", pixels(5, 3, 32, 32)
    write_pickle(folder / "train", {"data": images[:3].reshape(3, -1), "fine_labels": [7, 8, 99]})
    write_pickle(folder / "test", {"data": images[3:].reshape(2, -1), "fine_labels": [0, 1]})
    write_pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    return images.transpose(0, 2, 3, 1)[:3], [7, 8, 99], images.transpose(0, 2, 3, 1)[3:]


def write_svhn(root):
    train, test = pixels(32, 32, 3, 4), pixels(32, 32, 3, 2)
    savemat(root / "train_32x32.mat", {"X": train, "y": np.array([[1], [10], [3], [9]])})
    savemat(root / "test_32x32.mat", {"X": test, "y": np.array([[1], [2]])})
    return train.transpose(3, 0, 1, 2), [1, 0, 3, 9], test.transpose(3, 0, 1, 2)


def write_stl10(root):
    folder = root / "stl10_binary"
    folder.mkdir()
    images = {"train": pixels(3, 3, 96, 96), "test": pixels(2, 3, 96, 96), "unlabeled": pixels(4, 3, 96, 96)}
    for split, array in images.items():
        (folder / f"{split}_X.bin").write_bytes(array.tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 3]))
    (folder / "test_y.bin").write_bytes(bytes([1, 2]))
    (folder / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    return images["train"].transpose(0, 3, 2, 1), [0, 9, 2], images["test"].transpose(0, 3, 2, 1)


@pytest.mark.parametrize(
    ("kind", "write", "classes"),
    [(CIFAR10, write_cifar10, 10), (CIFAR100, write_cifar100, 100), (SVHN, write_svhn, 10), (STL10, write_stl10, 10)],
)
def test_arrays_that_torchvision_reads_keep_their_pixels_and_splits(tmp_path, unchecked, kind, write, classes):
    images, labels, test_images = write(tmp_path)
    data = source(kind, tmp_path)
    train, held_out = pickle.loads(pickle.dumps(data.records())), data.held_out()
    assert np.array_equal(np.stack([np.asarray(train.image(i)) for i in range(len(train))]), images)
    assert train.labels.tolist() == labels
    assert len(train.classes) == classes
    assert np.array_equal(np.stack([np.asarray(held_out.image(i)) for i in range(len(held_out))]), test_images)
    assert train.identity == data.records().identity != held_out.identity


def test_unlabelled_images_have_no_classes(tmp_path, unchecked):
    write_stl10(tmp_path)
    records = source(STL10, tmp_path, split="train+unlabeled").records()
    assert (len(records), records.classes, records.labels.tolist()) == (7, (), [0] * 7)
    with pytest.raises(ValueError, match=r"data\.split=unlabeled: .*data\.num_classes=null"):
        STL10(name="it", shape=[3, 96, 96], num_classes=10, root=str(tmp_path), split="unlabeled")


def write_jpegs(folder, names, size):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number,) * 3).save(folder / name, quality=100)


def test_celeba_has_an_attribute_for_classes_and_ddims_crop(tmp_path, unchecked):
    folder, names = tmp_path / "celeba", [f"{i:06d}.jpg" for i in range(1, 6)]
    write_jpegs(folder / "img_align_celeba", names, (178, 218))
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {s}\n" for n, s in zip(names, "00122", strict=True)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} 1\n" for n in names))
    attributes = [f"{n} {a} -1\n" for n, a in zip(names, (-1, 1, 1, -1, 1), strict=True)]
    (folder / "list_attr_celeba.txt").write_text("4\nSmiling Male \n" + "".join(attributes))
    for name in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        (folder / name).write_text("4\nx\n" + "".join(f"{n} 1\n" for n in names))
    data = source(CelebA, tmp_path, attribute="Smiling", crop=[25, 57, 153, 185])
    train, held_out = data.records(), data.held_out()
    assert (train.labels.tolist(), train.classes) == ([0, 1], ("not Smiling", "Smiling"))
    assert [held_out.describe(i) for i in range(len(held_out))] == [
        str(folder / "img_align_celeba" / f"00000{i}.jpg") for i in (4, 5)
    ]
    assert train.image(1).size == (128, 128)
    assert train.identity != source(CelebA, tmp_path, attribute="Smiling").records().identity
    with pytest.raises(ValueError, match=r"data\.attribute=Smilling: unknown; allowed: Smiling, Male\."):
        source(CelebA, tmp_path, attribute="Smilling").records()
    with pytest.raises(ValueError, match=r"data\.crop="):
        source(CelebA, tmp_path, crop=[25, 57, 189, 185])


def test_flowers_are_trained_on_the_splits_asked_for(tmp_path, unchecked):
    folder = tmp_path / "flowers-102"
    write_jpegs(folder / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 5)], (9, 7))
    savemat(folder / "imagelabels.mat", {"labels": [[5, 102, 1, 2]]})
    savemat(folder / "setid.mat", {"trnid": [[2, 3]], "valid": [[1, 1]], "tstid": [[4, 4]]})
    data = source(Flowers102, tmp_path)
    train = pickle.loads(pickle.dumps(data.records()))
    assert train.labels.tolist() == [101, 0, 4, 4]
    assert train.describe(2) == str(folder / "jpg" / "image_00001.jpg")
    assert [train.image(i).getpixel((4, 4))[0] for i in (0, 1, 2)] == [1, 2, 0]
    assert data.held_out().labels.tolist() == [1, 1]
    assert source(Flowers102, tmp_path, splits=["train", "val", "test"]).held_out() is None
    with pytest.raises(ValueError, match=r"data\.splits=\[\]"):
        source(Flowers102, tmp_path, splits=[])


def test_food_has_its_official_splits(tmp_path):
    folder = tmp_path / "food-101"
    names = ["pizza/1", "pizza/2", "baklava/3"]
    write_jpegs(folder / "images", [f"{name}.jpg" for name in names], (9, 7))
    (folder / "meta").mkdir()
    (folder / "meta" / "train.json").write_text(json.dumps({"pizza": names[:1], "baklava": names[2:]}))
    (folder / "meta" / "test.json").write_text(json.dumps({"pizza": names[1:2], "baklava": []}))
    data = source(Food101, tmp_path)
    assert data.records().labels.tolist() == [1, 0]
    assert data.records().classes == ("baklava", "pizza")
    assert data.held_out().describe(0) == str(folder / "images" / "pizza" / "2.jpg")


@pytest.mark.parametrize("kind", [FashionMNIST, MNIST, CIFAR10, CIFAR100, SVHN, STL10, CelebA, Flowers102, Food101])
def test_what_is_absent_is_named_with_what_is_expected(tmp_path, kind):
    (tmp_path / "file").touch()
    for root, said in (
        (tmp_path / "nowhere", "no folder"),
        (tmp_path / "file", "a file"),
        (tmp_path, "not contain it"),
    ):
        with pytest.raises(ValueError, match=rf"^data\.root={root}: .*{said}.* needs the .*download=true"):
            source(kind, root).records()


def test_what_cannot_be_fetched_is_said(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.svhn, "download_url", offline)
    with pytest.raises(ValueError, match=r"data\.download=true: SVHN cannot be downloaded: no network"):
        source(SVHN, tmp_path, download=True).records()
