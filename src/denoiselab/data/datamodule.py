"""Batches for the Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict

import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab.data.base import DataSet
from denoiselab.data.batch import clean
from denoiselab.data.stream import IndexStream


class Batch(TypedDict):
    """A training batch: the fields of `Clean`, those that are there, and `position` `(B,)` in images seen."""

    images: Tensor
    labels: Tensor
    captions: NotRequired[Sequence[str]]
    augmentation: NotRequired[Tensor]
    position: Tensor


class Batches:
    """An endless iterable of batches from a set held in memory.

    Args:
        data: The images or points.
        seed: Of the order.
        batch_size: Images a batch over all ranks; divisible by `world`.
        start: Images seen before the first batch.
        rank: Of this process; it reads positions rank, rank + world, ... of each batch.
        world: Number of processes.
    """

    def __init__(self, data: DataSet, seed: int, batch_size: int, start: int, rank: int = 0, world: int = 1) -> None:
        self.data, self.batch_size, self.start = data, batch_size, start
        self.rank, self.world = rank, world
        self.stream = IndexStream(len(data), seed)

    def __iter__(self) -> Iterator[Batch]:
        start = self.start
        while True:
            position = torch.arange(start + self.rank, start + self.batch_size, self.world)
            index = self.stream[position]
            known = clean(self.data, index)
            batch = Batch(images=known.images, labels=known.labels, position=position)
            yield batch if known.captions is None else {**batch, "captions": known.captions}
            start += self.batch_size


class DataModule(pl.LightningDataModule):
    """Feeds the Trainer from where the module's count of images seen stands.

    Args:
        train: Training images or points.
        seed: Of the order.
        batch_size: Images per optimizer step, over all ranks and accumulated batches.
    """

    def __init__(self, train: DataSet, seed: int, batch_size: int) -> None:
        super().__init__()
        self.train, self.seed, self.batch_size = train, seed, batch_size

    def train_dataloader(self) -> Batches:
        """Called after a checkpoint is restored, so the count is the resumed one."""
        assert self.trainer is not None
        micro_batch = self.batch_size // self.trainer.accumulate_grad_batches
        start: int = getattr(self.trainer.lightning_module, "images_seen")  # noqa: B009
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return Batches(self.train, self.seed, micro_batch, start, rank, world)
