"""Latents in files against the codec that made them."""

import json
import pickle
import shutil

import pytest
import torch

from denoiselab.codecs import AutoencoderKL
from denoiselab.data import ImageSet
from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.data.latents import LatentStore, StoredLatents
from denoiselab.data.latents_making import Making
from denoiselab.data.loading.batches import Reader
from denoiselab.data.loading.datamodule import augmented
from denoiselab.errors import BadInput
from denoiselab.stored import as_inputs

CPU = torch.device("cpu")
N = 11


@pytest.fixture(scope="module")
def data():
    images = torch.randint(256, (N, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(N))


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    made = AutoencoderKL((1, 8, 8), channels=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=2)
    return made.requires_grad_(False)


def making(codec, **options):
    return Making(
        codec.encode_pixels, {"codec": "this one"}, CPU, **{"images_per_shard": 4, "batch_size": 3, **options}
    )


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_batches_are_those_that_the_codec_makes_of_augmented_images(data, codec, tmp_path):
    store = making(codec).write(data, tmp_path / "store")
    assert [shard["n"] for shard in store.facts["shards"]] == [4, 4, 3]
    positions, seed = range(5, 45), 3
    plain = Reader(data, seed)[positions]
    for augmentation in (None, HorizontalFlip(except_classes=[3, 4]), HorizontalFlip()):
        images = augmented(plain, seed, augmentation)["images"]
        for with_images in (False, True):
            read = StoredLatents(store, seed, augmentation, with_images)
            batch = augmented(Reader(data, seed, read)[positions], seed, augmentation)
            assert torch.allclose(batch["kept"], codec.encode_pixels(images), atol=1e-6)
            assert torch.equal(batch["labels"], plain["labels"])
            assert torch.equal(batch["images"], images) if with_images else "images" not in batch
    mirrored = images != augmented(plain, seed, None)["images"]
    assert 10 < int(mirrored.flatten(1).any(1).sum()) < 30
    wrong = codec.encode_pixels(augmented(plain, seed, None)["images"]).flip(-1)  # mirrored latents are others
    assert not torch.allclose(batch["kept"], wrong, atol=0.1)


def test_halves_round_and_what_they_cannot_hold_is_refused(data, codec, tmp_path):
    store = making(codec, dtype="float16", flips=False).write(data, tmp_path / "store")
    exact = codec.encode_pixels(as_inputs(data.images))
    kept = store.kept(torch.arange(N))
    assert kept.dtype == torch.float16
    assert torch.allclose(kept.float(), exact, rtol=2**-11, atol=1e-6)
    large = Making(lambda x: 1e5 * codec.encode_pixels(x), {}, CPU, dtype="float16")
    with pytest.raises(BadInput, match="images 0 to 10 are not finite as float16"):
        large.write(data, tmp_path / "large")
    assert not list((tmp_path / "large").glob("*.npy"))


class Cropped(ImageSet):
    """Images whose rows are rolled at random, in place of crops."""

    def drawn(self, index, noise):
        rows = (noise.uniform() * 8).long()
        return torch.stack([image.roll(int(row), 1) for image, row in zip(self.images[index], rows, strict=True)])


def test_each_image_has_so_many_crops_and_training_takes_them_at_random(data, codec, tmp_path):
    store = making(codec, crops=3).write(Cropped(data.images, data.labels), tmp_path / "store")
    read = StoredLatents(store, 0, None, False)
    index = torch.full((60,), 7)
    kept = read.drawn(index, torch.arange(60), index)
    crops, counts = kept.flatten(1).unique(dim=0, return_counts=True)
    assert len(crops) == 3
    assert int(counts.min()) > 10
    shifted = torch.stack([data.images[7].roll(row, 1) for row in range(8)])
    every = codec.encode_pixels(as_inputs(shifted)).flatten(1)
    assert float(torch.cdist(crops, every).min(1).values.max()) < 1e-5


def test_a_conversion_that_was_stopped_or_killed_goes_on(data, codec, tmp_path):
    whole = making(codec).write(data, tmp_path / "whole")
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        making(codec).write(data, tmp_path / "stopped", stop)
    assert not (tmp_path / "stopped" / "latents.json").exists()
    with pytest.raises(BadInput, match=r"has no latents.json"):
        LatentStore.open(tmp_path / "stopped")
    (tmp_path / "stopped" / ".000001.npy.abc.tmp").write_bytes(b"of a killed process")
    first = (tmp_path / "stopped" / "000000.npy").stat().st_mtime_ns
    making(codec).write(data, tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert (tmp_path / "stopped" / "000000.npy").stat().st_mtime_ns == first
    with pytest.raises(BadInput, match="made with another flips; choose a new folder"):
        making(codec, flips=False).write(data, tmp_path / "stopped")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="holds no latents"):
        making(codec).write(data, tmp_path / "else")
    assert len(whole) == N


def test_damaged_shards_are_refused(data, codec, tmp_path):
    making(codec).write(data, tmp_path / "store")
    shard = tmp_path / "store" / "000001.npy"
    content = shard.read_bytes()
    for damaged, says in (
        (content[:-8], rf"000001.npy has {len(content) - 8:,} bytes instead of {len(content):,}; make it again"),
        (content[:-8] + bytes(8), "000001.npy has changed; make it again"),
        (None, "000001.npy is missing"),
    ):
        shard.write_bytes(damaged) if damaged else shard.unlink()
        with pytest.raises(BadInput, match=says):
            LatentStore.open(tmp_path / "store")
    making(codec).write(data, tmp_path / "store")
    assert shard.read_bytes() == content
    LatentStore.open(tmp_path / "store")
    facts = json.loads((tmp_path / "store" / "latents.json").read_text())
    (tmp_path / "store" / "latents.json").write_text(json.dumps({**facts, "n": 5}))
    with pytest.raises(BadInput, match=r"its latents.json is changed since it was written"):
        LatentStore.open(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(BadInput, match=r"name a folder that python -m denoiselab\.convert to=latents wrote"):
        LatentStore.open(tmp_path / "store")


def test_another_process_maps_the_files_itself(data, codec, tmp_path):
    store = making(codec).write(data, tmp_path / "store")
    kept = store.kept(torch.arange(N))
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 5000
    assert torch.equal(again.kept(torch.arange(N)), kept)
