"""Batches of training: an endless iterable, read ahead by other processes where reading is slow."""

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
from denoiselab.data.loading.processes import clean_processes, end_with_parent
from denoiselab.data.loading.stream import IndexStream
from denoiselab.noise import LOADING, Noise


class Batch(TypedDict):
    """A training batch.

    From `Batches`, `images` are as they are stored; the data module makes of them what the network sees.

    Args:
        images: `(B, *)`: images `(B, C, H, W)`, points `(B, D)`.
        labels: Classes `(B,)` int64.
        position: `(B,)` int64, in images seen.
        captions: One a sample, where there are some.
        augmentation: `(B, A)` how each image was augmented, where that is done.
    """

    images: Tensor
    labels: Tensor
    position: Tensor
    captions: NotRequired[list[str]]
    augmentation: NotRequired[Tensor]


class Positions(Sampler[range]):
    """The positions of a rank's batches, without end.

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
    """The batch at given positions: a pure function of (seed, positions), whoever calls it.

    Args:
        data: The samples.
        seed: Of the order, and of random crops.
    """

    def __init__(self, data: DataSet, seed: int) -> None:
        self.data, self.seed = data, seed
        self.stream = IndexStream(len(data), seed)

    def __getitem__(self, positions: range) -> Batch | Exception:
        position = torch.arange(positions.start, positions.stop, positions.step)
        index = self.stream[position]
        try:
            images = self.data.drawn(index, Noise(self.seed, position, LOADING))
        except (ValueError, OSError) as error:
            return error  # raised by who asked: what comes from another process would be wrapped in its traceback
        batch = Batch(images=images, labels=self.data.labels[index], position=position)
        if self.data.captions is not None:
            batch["captions"] = [self.data.captions[i] for i in index.tolist()]
        return batch


class Batches:
    """An endless iterable of batches as they are stored, from a set in memory or in files.

    A set may be smaller than a batch, or than the number of ranks: a batch then holds images of several epochs.

    Args:
        data: The samples; its `workers` processes read ahead.
        seed: Of the order.
        batch_size: Samples a batch over all ranks; divisible by `world`.
        start: Images seen before the first batch.
        rank: Of this process.
        world: Number of processes.
        pinned: Put batches where a GPU copies them from fast.
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
    ) -> None:
        self.reader, self.pinned = Reader(data, seed), pinned
        self.positions = Positions(batch_size, start, rank, world)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._read_ahead() if self.reader.data.workers else map(self.reader.__getitem__, self.positions):
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def _read_ahead(self) -> Iterator[Batch | Exception]:
        loader: DataLoader[Batch | Exception] = DataLoader(
            self.reader,
            batch_size=None,
            sampler=self.positions,
            num_workers=self.reader.data.workers,
            pin_memory=self.pinned,
            multiprocessing_context=clean_processes(),
            worker_init_fn=functools.partial(_obey, os.getpid()),
        )
        return iter(loader)


def _obey(main: int, worker: int) -> None:
    """Let a process that reads batches be ended by the main process alone, or by its end.

    Signals go to all processes of a terminal or a job; the main one then saves its state, and needs batches to do so.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != main:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    end_with_parent()
