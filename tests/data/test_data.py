import pytest
import torch
from configurations import build

from denoiselab.data import Digits, ImageSet, from_uint8, to_uint8
from denoiselab.data.loading.batches import Batches
from denoiselab.data.loading.stream import IndexStream
from denoiselab.testing import check_data


def digits(**options):
    return Digits("digits", (1, 8, 8), 10, **options)


def test_bytes_survive_the_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)
    assert to_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


DRAWN = ("checkerboard", "eight_gaussians", "pinwheel", "swiss_roll", "tones", "two_moons")


@pytest.mark.parametrize("name", [*DRAWN, "digits"])
def test_data_that_need_no_files_keep_the_contract(name):
    check_data(build("data", name, *(["+size=200", "+held_out=60"] if name in DRAWN else [])))


BROKEN = {
    "labels must be int64": lambda images, labels: ImageSet(images, labels.int()),
    "has shape": lambda images, labels: ImageSet(images[..., 1:], labels),
    "is empty": lambda images, labels: ImageSet(images[:0], labels[:0]),
    "a caption a sample": lambda images, labels: ImageSet(images, labels, ["one"]),
    "another load gives other data": lambda images, labels: ImageSet(torch.randint_like(images, 256), labels),
    "must be uint8 or float32": lambda images, labels: ImageSet(images.long(), labels),
}


@pytest.mark.parametrize("says", BROKEN)
def test_data_that_break_the_contract_are_found_out(says):
    class Source(Digits):
        def load(self):
            data = BROKEN[says](*(getattr(super(Source, self).load()[0], part) for part in ("images", "labels")))
            return data, data

    with pytest.raises(AssertionError, match=says):
        check_data(Source("digits", (1, 8, 8), 10, size=64))


def test_digits_are_the_real_ones():
    train, held_out = digits().load()
    assert len(train) + len(held_out) == 1797
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.images.max() == 255
    assert set(train.labels.tolist()) == set(range(10))
    assert 0.13 < len(held_out) / 1797 < 0.2
    again, _ = digits().load()
    assert again.fingerprint == train.fingerprint
    assert digits(size=32).load()[0].fingerprint == train.subset(torch.arange(32)).fingerprint


def test_copies_of_an_image_are_never_parted():
    train, held_out = digits().load()
    seen = {image.numpy().tobytes() for image in train.images}
    assert not seen & {image.numpy().tobytes() for image in held_out.images}


@pytest.mark.parametrize("bad", [{"validation": 1.0}, {"size": 0}])
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=f"data.{next(iter(bad))}="):
        digits(**bad)
    with pytest.raises(ValueError, match=r"data\.shape="):
        Digits("digits", (1, 9, 9), 10).load()


def test_stream_shows_every_image_once_an_epoch():
    stream = IndexStream(10, seed=0)
    order = stream[torch.arange(35)]
    for epoch in range(3):
        assert sorted(order[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()
    assert torch.equal(IndexStream(10, seed=0)[torch.arange(17, 23)], order[17:23])
    assert not torch.equal(IndexStream(10, seed=1)[torch.arange(10)], order[:10])


def test_batches_are_a_function_of_images_seen():
    data = ImageSet(torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1), torch.arange(10))

    def read(batch_size, start, count, rank=0, world=1):
        batches = iter(Batches(data, 0, batch_size, start, rank, world))
        return [next(batches) for _ in range(count)]

    straight = torch.cat([b["labels"] for b in read(4, 0, 6)])
    assert torch.equal(torch.cat([b["labels"] for b in read(4, 8, 4)]), straight[8:])
    assert torch.equal(torch.cat([b["labels"] for b in read(6, 0, 4)]), straight)
    for batch, first, second in zip(read(4, 0, 6), read(4, 0, 6, 0, 2), read(4, 0, 6, 1, 2), strict=True):
        assert torch.equal(batch["position"][0::2], first["position"])
        assert torch.equal(batch["labels"][1::2], second["labels"])
        assert torch.equal(batch["images"].flatten().long(), batch["labels"])
