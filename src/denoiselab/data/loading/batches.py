"""Training batches: an endless iterable, loaded in advance by other processes if loading is slow."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Iterator
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from denoiselab.data.base import DataSet
from denoiselab.data.latents import StoredLatents
from denoiselab.data.loading.processes import clean_processes, end_with_parent
from denoiselab.data.loading.stream import IndexStream
from denoiselab.data.pairs import PairStore
from denoiselab.noise import LOADING, Noise


class Batch(TypedDict):
    """A training batch.

    `Batches` gives `images` as stored; the data module converts them to the network's range.

    Args:
        images: `(B, *)`: images `(B, C, H, W)`, points `(B, D)`; not there where `kept` suffices.
        labels: Classes `(B,)` int64.
        position: `(B,)` int64, in images seen.
        captions: One per sample, if the set has captions.
        augmentation: `(B, A)` how each image was augmented, if augmentations report it.
        maps: `(B, H, W)` int64 the class of each pixel, if the set has maps.
        kept: `(B, *)` what the codec keeps of the images, augmented, if it is read from a store.
        pair: `(B, 2, *)` noise and the sample made of it, in place of images.
    """

    images: NotRequired[Tensor]
    labels: Tensor
    position: Tensor
    captions: NotRequired[list[str]]
    augmentation: NotRequired[Tensor]
    maps: NotRequired[Tensor]
    kept: NotRequired[Tensor]
    pair: NotRequired[Tensor]


class Positions(Sampler[range]):
    """The positions of a rank's batches, endless.

    Args:
        batch_size: Over all ranks; divisible by `world`.
        start: Images seen before the first batch.
        rank: Of this process; it takes positions rank, rank + world, ... of each batch.
        world: Number of processes.
    """

    def __init__(self, batch_size: int, start: int, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self.start, self.rank, self.world = batch_size, start, rank, world

    def __iter__(self) -> Iterator[range]:
        start = self.start
        while True:
            yield range(start + self.rank, start + self.batch_size, self.world)
            start += self.batch_size


class Reader(Dataset[Batch | Exception]):
    """The batch at given positions: a pure function of (seed, positions).

    Args:
        data: The samples.
        seed: Of the order, and of random crops.
        latents: Read instead of the images, or beside them; pairs: in place of all else. None for the images alone.
    """

    def __init__(self, data: DataSet, seed: int, latents: StoredLatents | PairStore | None = None) -> None:
        self.data, self.seed = data, seed
        self.pairs = latents if isinstance(latents, PairStore) else None
        self.latents = latents if isinstance(latents, StoredLatents) else None
        self.stream = IndexStream(len(self.pairs or data), seed)

    def __getitem__(self, positions: range) -> Batch | Exception:
        position = torch.arange(positions.start, positions.stop, positions.step)
        index = self.stream[position]
        if self.pairs is not None:
            return Batch(labels=self.pairs.labels(index), position=position, pair=self.pairs.pairs(index))
        batch = Batch(labels=self.data.labels[index], position=position)
        try:
            if self.latents is not None:
                batch["kept"] = self.latents.drawn(index, position, batch["labels"])
            if self.latents is None or self.latents.images:
                batch["images"] = self.data.drawn(index, Noise(self.seed, position, LOADING))
            if (maps := getattr(self.data, "maps", None)) is not None:
                batch["maps"] = maps(index)
        except (ValueError, OSError) as error:
            return error  # raised in the main process; DataLoader would wrap it in the worker's traceback
        if self.data.captions is not None:
            batch["captions"] = [self.data.captions[i] for i in index.tolist()]
        return batch


class Batches:
    """An endless iterable of batches as stored, from a set in memory or in files.

    A set may be smaller than a batch or the number of ranks; a batch then contains images of several epochs.

    Args:
        data: The samples; `data.workers` processes load in advance.
        seed: Of the order.
        batch_size: Samples per batch over all ranks; divisible by `world`.
        start: Images seen before the first batch.
        rank: Of this process.
        world: Number of processes.
        pinned: Use pinned memory, which a GPU copies faster.
        latents: As in `Reader`; without images nothing is decoded, so no processes are started.
    """

    def __init__(
        self,
        data: DataSet,
        seed: int,
        batch_size: int,
        start: int,
        rank: int = 0,
        world: int = 1,
        *,
        pinned: bool = False,
        latents: StoredLatents | PairStore | None = None,
    ) -> None:
        self.reader, self.pinned = Reader(data, seed, latents), pinned
        self._workers = data.workers if latents is None or getattr(latents, "images", False) else 0
        self.positions = Positions(batch_size, start, rank, world)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._read_ahead() if self._workers else map(self.reader.__getitem__, self.positions):
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def _read_ahead(self) -> Iterator[Batch | Exception]:
        loader: DataLoader[Batch | Exception] = DataLoader(
            self.reader,
            batch_size=None,
            sampler=self.positions,
            num_workers=self._workers,
            pin_memory=self.pinned,
            multiprocessing_context=clean_processes(),
            worker_init_fn=functools.partial(_ignore_signals_from_others, os.getpid()),
        )
        return iter(loader)


def _ignore_signals_from_others(main: int, worker: int) -> None:
    """Let only the main process terminate this worker.

    A terminal or a job manager signals all processes; the main one then saves its state and still needs batches.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != main:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    end_with_parent()
