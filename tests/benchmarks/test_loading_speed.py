"""How fast training data come, alone and beside training; and the memory of workers."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import Arrays, Digits, ImageFolder
from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.data.loading.batches import Batches
from denoiselab.data.loading.datamodule import DataModule, augmented
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet
from denoiselab.objectives import DenoisingObjective, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import VPLinear
from denoiselab.training.ema import EMA, HalfLife
from denoiselab.training.lr_schedules import Warmup
from denoiselab.training.module import DiffusionModule

BATCH, ROUNDS = 128, 5


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Name to a training set: digits, images like Fashion-MNIST's in 32 x 32, and 5,000 JPEGs decoded or not."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    np.save(root / "images.npy", random.integers(0, 256, (60_000, 28, 28), np.uint8))
    (root / "jpegs").mkdir()
    for i in range(5000):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(root / "jpegs" / f"{i:04d}.jpg", quality=90)
    options = {"name": "mine", "num_classes": None, "cache_dir": str(root / "cache"), "validation": 0.0}
    jpegs = {**options, "root": str(root / "jpegs"), "shape": (3, 64, 64)}
    fashion = Arrays(root=str(root / "images.npy"), shape=(1, 32, 32), resize="pad", **options)
    return {
        "digits": Digits("digits", (1, 8, 8), 10).load()[0],
        "fashion": fashion.load()[0],
        "jpegs": ImageFolder(**jpegs).load()[0],
        "jpegs, not kept": ImageFolder(**jpegs, memory_limit=0.0, workers=2).load()[0],
    }


def rate(batches, count):
    """Images a second of `count` batches after the first."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    images = sum(len(next(iterator)["images"]) for _ in range(count))
    return images / (time.perf_counter() - start)


class Ours:
    """Batches as the network sees them, flipped at random."""

    def __init__(self, data):
        self.batches = Batches(data, 0, BATCH, 0)

    def __iter__(self):
        return (augmented(batch, 0, HorizontalFlip()) for batch in self.batches)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["digits", "fashion", "jpegs", "jpegs, not kept"])
def test_images_per_second_alone(sets, name):
    rates = [rate(Ours(sets[name]), 60) for _ in range(ROUNDS)]
    print(f"{name}: median {statistics.median(rates):,.0f} images/s of {sorted(round(r) for r in rates)}")
    assert min(rates) > 0


class Timed(DataModule):
    """Counts the seconds that training waits for data."""

    waited = 0.0

    def train_dataloader(self):
        return self.timed(super().train_dataloader())

    def timed(self, batches):
        class Iterable:
            def __iter__(_):
                iterator = iter(batches)
                while True:
                    start = time.perf_counter()
                    batch = next(iterator)
                    self.waited += time.perf_counter() - start
                    yield batch

        return Iterable()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        start = time.perf_counter()
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        self.waited += time.perf_counter() - start
        return batch


class Clock(pl.Callback):
    """Seconds from the end of the first batch, with its first touch of everything, to that of the last."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 0:
            trainer.datamodule.waited, self.start = 0.0, time.perf_counter()
        self.seconds = time.perf_counter() - self.start


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "steps"), [("digits", 60), ("fashion", 12), ("jpegs", 5), ("jpegs, not kept", 5)])
def test_training_hardly_waits_for_data(sets, name, steps):
    data = sets[name]
    torch.manual_seed(0)
    net = DDPMUNet(data.shape, channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), dropout=0.0, groups=8)
    denoiser = Denoiser(net.to(memory_format=torch.channels_last), VPLinear(), parameterizations.eps, ScaledTime())
    module = DiffusionModule(
        Model(denoiser, Unconditional(), Identity(data.shape)), DenoisingObjective(weights.snr, UniformTime()),
        lambda p: torch.optim.AdamW(p, lr=2e-3), Warmup(2000), EMA({"ema": HalfLife(5000)}), 0, {},
    )  # fmt: skip
    clock, batches = Clock(), Timed(data, 0, BATCH, HorizontalFlip())
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, logger=False, callbacks=[clock], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=batches)
    share = batches.waited / clock.seconds
    images = (steps - 1) * BATCH / clock.seconds
    print(f"{name}: waits for data {share:.2%} of the time; trains {images:,.0f} images/s")
    if name != "jpegs, not kept":
        assert share < 0.02


MEMORY = """
import sys, numpy as np, psutil, torch
from pathlib import Path
from denoiselab.data.reading.record_set import MappedPixels, RecordSet
from denoiselab.data.loading.batches import Batches

if __name__ == "__main__":
    root, n = Path(sys.argv[1]), int(sys.argv[2])
    np.lib.format.open_memmap(root / "images.npy", "w+", np.uint8, (n, 3, 64, 64))[:] = 7
    rows = torch.arange(n)
    data = RecordSet(MappedPixels(root / "images.npy"), (3, 64, 64), rows, rows, None, torch.zeros(n, 32), "", 4)
    batches = iter(Batches(data, 0, 512, 0))
    for _ in range(170):  # as many whatever n is, so that the allocators are in the same state
        batch = next(batches)
    everyone = [psutil.Process(), *psutil.Process().children(recursive=True)]
    # Not the libraries, whose pages other programs share too, now more and now less.
    maps = [m for process in everyone for m in process.memory_maps(grouped=False)]
    of_set = sum(m.pss for m in maps if "images" in m.path)
    rest = sum(m.pss for m in maps if not m.path.startswith("/"))
    print(len(everyone), of_set, rest)
"""


@pytest.mark.slow
def test_workers_share_a_set_in_memory(tmp_path):
    """A set of 1 GiB, read by four workers, is in memory once."""
    (tmp_path / "memory.py").write_text(MEMORY)

    def measured(n):
        command = [sys.executable, str(tmp_path / "memory.py"), str(tmp_path), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
        return [int(word) for word in done.stdout.split()[-3:]]

    processes, _, without = measured(256)
    again, of_set, rest = measured(2**30 // (3 * 64 * 64))
    print(f"{again} processes: the set {of_set / 2**30:.2f} GiB, their own {rest / 2**30:.2f} GiB")
    assert processes == again >= 6  # four workers, the process they are forked from, and this one
    assert 0.99 * 2**30 < of_set < 1.01 * 2**30
    assert rest - without < 2**29  # no copy
