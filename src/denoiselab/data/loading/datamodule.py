"""The data module of Lightning's Trainer."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab.data.augmentation import Augmentation, HorizontalFlip
from denoiselab.data.base import DataSet
from denoiselab.data.latents import StoredLatents
from denoiselab.data.loading.batches import Batch, Batches, Reader
from denoiselab.data.pairs import PairStore
from denoiselab.errors import BadInput
from denoiselab.noise import AUGMENTING, Noise
from denoiselab.stored import as_inputs


class DataModule(pl.LightningDataModule):
    """Training batches from the module's count of images seen on.

    Args:
        train: Training images or points.
        seed: Of the order.
        batch_size: Images per optimizer step, over all ranks and accumulated batches.
        augmentation: Random changes of batches; None for none.
        latents: Of the training images, or pairs, read instead of them; None for the images themselves.

    Raises:
        ValueError: If the images have maps that cannot follow the augmentation.
    """

    def __init__(
        self,
        train: DataSet,
        seed: int,
        batch_size: int,
        augmentation: Augmentation | None = None,
        latents: StoredLatents | PairStore | None = None,
    ) -> None:
        super().__init__()
        if getattr(train, "maps", None) is not None and not isinstance(augmentation, HorizontalFlip | None):
            raise BadInput(
                f"augmentation={type(augmentation).__name__}: the maps of data.maps cannot follow it; choose "
                "augmentation=flip or null."
            )
        self.train, self.seed, self.batch_size, self.augmentation = train, seed, batch_size, augmentation
        self.latents = latents

    def train_dataloader(self) -> Batches:
        """Batches from the images seen so far; Lightning calls it after it has restored a checkpoint."""
        assert self.trainer is not None
        micro_batch = self.batch_size // self.trainer.accumulate_grad_batches
        start: int = getattr(self.trainer.lightning_module, "images_seen")  # noqa: B009
        rank, world = self.trainer.global_rank, self.trainer.world_size
        pinned = self.trainer.strategy.root_device.type == "cuda"
        return Batches(
            self.train, self.seed, micro_batch, start, rank, world, pinned=pinned, latents=self.latents
        )  # fmt: skip

    def first(self, n: int) -> Tensor:
        """The first `n` training samples in the network's range, `(n, *)`."""
        batch = Reader(self.train, self.seed)[range(n)]
        if isinstance(batch, Exception):
            raise batch
        return augmented(batch, self.seed, self.augmentation)["images"]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The batch in the network's range, converted on the device, so that bytes are transferred and not floats."""
        return augmented(batch, self.seed, self.augmentation)


def augmented(batch: Batch, seed: int, augmentation: Augmentation | None) -> Batch:
    """A stored batch in the network's range, augmented: a function of (seed, positions)."""
    if "images" not in batch:
        return batch
    images = as_inputs(batch["images"])
    if augmentation is None:
        return {**batch, "images": images}
    if "maps" in batch:
        batch = {**batch, "maps": _mirrored(batch, seed, augmentation)}
    before = images
    images, features = augmentation(images, Noise(seed, batch["position"], AUGMENTING))
    if len(augmentation.except_classes):
        left = torch.isin(batch["labels"], torch.tensor(augmentation.except_classes, device=before.device))
        images = torch.where(left.view(-1, *[1] * (before.ndim - 1)), before, images)
        features = None if features is None else features * ~left[:, None]
    changed: Batch = {**batch, "images": images.contiguous(memory_format=torch.channels_last)}
    return changed if features is None else {**changed, "augmentation": features}


def _mirrored(batch: Batch, seed: int, augmentation: Augmentation) -> Tensor:
    """The maps of a batch, mirrored where its images are."""
    maps = batch["maps"]
    mirrored, _ = augmentation(maps[:, None], Noise(seed, batch["position"], AUGMENTING))
    left = torch.isin(batch["labels"], torch.tensor(augmentation.except_classes, device=maps.device))
    return torch.where(left.view(-1, 1, 1), maps, mirrored[:, 0])
