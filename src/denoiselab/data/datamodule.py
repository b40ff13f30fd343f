"""Batches for the Trainer."""

from __future__ import annotations

import pytorch_lightning as pl

from denoiselab.data.base import DataSet
from denoiselab.data.images import as_inputs
from denoiselab.data.loading import Batch, Batches


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
        pinned = self.trainer.strategy.root_device.type == "cuda"
        return Batches(self.train, self.seed, micro_batch, start, rank, world, pinned=pinned)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The batch as the network sees it, made on the network's device: bytes are moved, not floats."""
        return {**batch, "images": as_inputs(batch["images"])}
