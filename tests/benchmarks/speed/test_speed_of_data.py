"""Batches of images in memory, shuffled and flipped, beside torchvision's transforms in torch's DataLoader."""

import statistics
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from denoiselab.data import Arrays
from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.data.loading.batches import Batches
from denoiselab.data.loading.datamodule import augmented

BATCH, ROUNDS = 128, 5


class Torchvisions(Dataset):
    """Fashion-MNIST as torchvision's class gives it, with the usual transforms."""

    def __init__(self, images):
        from torchvision import transforms

        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.Pad(2),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,), (0.5,)),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"images": self.transform(Image.fromarray(self.images[i].numpy(), mode="L"))}


@pytest.mark.benchmark
def test_batching_in_memory_is_ten_times_as_fast_as_torchvisions(tmp_path, reported):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), np.uint8))
    place = {"root": str(tmp_path / "images.npy"), "cache_dir": str(tmp_path / "cache")}
    data, _ = Arrays(name="mine", shape=(1, 32, 32), resize="pad", num_classes=None, validation=0.0, **place).load()
    ours = lambda: (augmented(batch, 0, HorizontalFlip()) for batch in Batches(data, 0, BATCH, 0))  # noqa: E731
    theirs = Torchvisions(data.stored(torch.arange(len(data)))[:, 0, 2:-2, 2:-2].contiguous())
    loader = DataLoader(theirs, BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
    seconds = {"ours": [], "torchvision, DataLoader of 2 workers": []}
    for _ in range(ROUNDS):
        for values, made, count in zip(seconds.values(), (ours(), loader), (400, 100), strict=True):
            values.append(seconds_of_a_batch(made, count))
    own, theirs = (statistics.median(values) for values in seconds.values())
    reported("data", f"batch of {BATCH}, 1x32x32, flipped", dict(zip(seconds, (own, theirs), strict=True)))
    assert theirs >= 10 * own


def seconds_of_a_batch(batches, count):
    """Of `count` batches after the first."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return (time.perf_counter() - start) / count
