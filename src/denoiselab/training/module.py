"""The LightningModule of all trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from denoiselab.codecs import ReconstructionLoss
from denoiselab.data.loading.batches import Batch
from denoiselab.networks.base import blocks
from denoiselab.networks.layers import Constrained, Dropout
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import Objective
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.trained import Trained, batch_loss
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, WEIGHTS_KEYS
from denoiselab.training.ema import EMA
from denoiselab.training.finite import DivergedError, not_finite_on_any_rank
from denoiselab.training.lr_schedules import LRSchedule
from denoiselab.training.preparing import Preparation
from denoiselab.training.sharded_tensors import spread


class DiffusionModule(pl.LightningModule):
    """Trains a denoiser, or a classifier or a first stage in its place, on an objective.

    All random numbers are functions of (seed, images seen), so a resumed run equals an uninterrupted one.

    Args:
        model: The model whose denoiser, classifier or autoencoder is trained.
        objective: Its loss.
        optimizer: Makes the optimizer from parameters, or from groups of them.
        lr_schedule: Factor on the optimizer's learning rate.
        ema: Moving averages of what is trained, the objective aside.
        seed: Any integer from 0 to 2^63 - 1.
        config: The run's resolved configuration, plain containers, saved in each checkpoint.
        data_sha256: Fingerprint of the samples, saved in each checkpoint.
        preparation: Of the network; None for none.
    """

    def __init__(
        self,
        model: Trained,
        objective: nn.Module,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
        lr_schedule: LRSchedule,
        ema: EMA,
        seed: int,
        config: dict[str, Any],
        data_sha256: str | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        super().__init__()
        # Its name begins the keys of weights in checkpoints, those of classifiers and first stages too.
        self.denoiser, self.objective = model.trained, objective
        self.batch_loss = batch_loss(model, objective)
        self.optimizer, self.lr_schedule, self.ema = optimizer, lr_schedule, ema
        self.seed, self.config, self.data_sha256 = seed, config, data_sha256
        self.preparation = preparation or Preparation()
        self.initial_optimizer: dict[int, dict[str, Any]] | None = None  # another run's state of the same parameters
        # Records of the model that this one started from, and of its teacher, saved in each checkpoint.
        self.initial: dict[str, Any] | None = None
        self.teacher: dict[str, Any] | None = None
        self.images_seen = 0
        self._step_start = self._batch_start = 0
        self._constrained: list[Constrained] = []
        self._dropout: list[Dropout] = []
        self._levels: list[LevelDistribution] = []
        self.leaves_out, self.left_out = False, 0  # steps whose gradients are not finite; their number
        self._begun, self._whole, self._gathered = False, False, ExitStack()
        self.numbers: frozenset[str] = frozenset()  # names of parameters without axes, which have one where sharded

    def configure_model(self) -> None:
        """Prepare the network, then shard what is trained if it is to be, before the optimizer is made."""
        network = getattr(self.denoiser, "network", self.denoiser)
        self.preparation(network)
        if self.device_mesh is None:
            return
        from denoiselab.training.sharding import shard

        # A gradient that a loss itself takes would end the backward pass of blocks, whose weights then are gone.
        alone = isinstance(self.objective, ReconstructionLoss) or any(
            getattr(self.objective, f"{which}_derivatives", False) for which in ("second", "forward")
        )
        self.numbers = shard(self, [] if alone else blocks(network), self.device_mesh)
        self.ema.numbers = frozenset(name.removeprefix("denoiser.") for name in self.numbers)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer; each group has its full learning rate as `initial_lr`."""
        groups = self.batch_loss.groups()
        alone = len(groups) == 1
        optimizer = self.optimizer(groups[0].parameters if alone else [{"params": one.parameters} for one in groups])
        for group, made in zip(groups, optimizer.param_groups, strict=True):
            made["lr"] = made["initial_lr"] = made["lr"] * group.lr
        if self.initial_optimizer is not None:
            own = optimizer.state_dict()["param_groups"]  # learning rate and all else are this run's own
            state = self.initial_optimizer
            for number, parameter in enumerate(one for group in groups for one in group.parameters):
                if number in state:
                    state[number] = {
                        key: value if key == "step" else spread(value, parameter)
                        for key, value in state[number].items()
                    }
            optimizer.load_state_dict({"state": state, "param_groups": own})
        return optimizer

    def on_fit_start(self) -> None:
        """Start the averages, unless they were loaded, and enable dropout."""
        self.denoiser.train()
        self.objective.train()
        if isinstance(self.objective, Objective) and self.objective.teacher is not None:
            self.objective.teacher.to(self.device)
        self._begin()
        self.initial_optimizer = None
        self._constrained = [layer for layer in self.denoiser.modules() if isinstance(layer, Constrained)]
        self._dropout = [layer for layer in self.modules() if isinstance(layer, Dropout) and layer.p]
        self._levels = [part for part in self.objective.modules() if isinstance(part, LevelDistribution)]

    def touch(self) -> None:
        """Do nothing: a sharded model's first forward, in which its root is found before a block is called alone."""

    def _begin(self) -> None:
        """Start from the weights and the images seen as they are."""
        self._begun = True
        if self.device_mesh is not None:
            sharded: Any = self
            sharded.touch()
            sharded.reshard()
        self.ema.start(self.denoiser)
        self._step_start = self.images_seen

    def on_train_start(self) -> None:
        """Remove later snapshots of averages, now that a checkpoint is loaded, of a sharded model too."""
        self.ema.resume(self.images_seen)

    def on_fit_end(self) -> None:
        """Leave the network as it was before the training."""
        for layer in self._dropout:
            layer.key = None
        self.preparation.undo()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The batch's mean loss, a float32 scalar, as `loss`, and the `parts` of it that are logged."""
        # What the networks of users draw by torch's generator is seeded by images seen and rank.
        word = (self.seed * 0x9E3779B1 + self.images_seen * 0x10001 + self.global_rank) % 2**63
        torch.default_generator.manual_seed(word)
        if self.device.type == "cuda":  # not torch.manual_seed: without a GPU that queues a stack trace each call
            torch.cuda.manual_seed(word)
        self._batch_start = self.images_seen
        noise = Noise(self.seed, batch["position"], TRAINING)
        if self._dropout:
            for layer, key in zip(self._dropout, noise.keys(len(self._dropout)), strict=True):
                layer.key = key
        if isinstance(self.objective, Objective):
            self.objective.begin(min(1.0, self._step_start / self.config.get("max_images", math.inf)))
        self.preparation.begin_step()
        loss = self.batch_loss.loss(batch, noise, self.images_seen)
        self.images_seen += len(batch["position"]) * self.trainer.world_size
        total = loss.total.sum() if loss.total.ndim else loss.total  # of one number: a sharded parameter has an axis
        return {"loss": total, **({"parts": dict(loss.parts)} if loss.parts else {})}

    def on_after_backward(self) -> None:
        """End what `training_step` began."""
        self.preparation.end_step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the gradients, which are zeros, from parameters whose training has not begun."""
        for parameter in self.batch_loss.idle(self._batch_start):
            parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of each group of parameters by its own norm."""
        if len(optimizer.param_groups) == 1 or not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Set the learning rate, step, restore constraints on weights, then update the averages."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.lr_schedule(self._step_start)
        optimizer.step(closure=optimizer_closure)
        for distribution in self._levels:
            distribution.settle()
        for layer in self._constrained:
            layer.constrain()
        self.ema.update(self.denoiser, self.images_seen, self.images_seen - self._step_start)
        self._step_start = self.images_seen

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Context in which each rank has all weights and averages, those of a sharded model too.

        All ranks enter it together; within it each may call the network as often as it likes.
        """
        if self.device_mesh is None or self._whole:
            yield
            return
        from denoiselab.training import sharding

        with sharding.whole(self, self.numbers), self.ema.whole():
            self._whole = True
            try:
                yield
            finally:
                self._whole = False

    def gather(self) -> None:
        """Have the whole on each rank from now on."""
        self._gathered.enter_context(self.whole())

    @contextmanager
    def applied(self, name: str) -> Iterator[None]:
        """Context in which the denoiser has the weights of that name; of a sharded model it is `whole`, too."""
        with self.whole(), self.ema.applied(self.denoiser, name, self.images_seen):
            yield

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the averages, images seen, configuration and data's fingerprint: plain containers and tensors only.

        Raises:
            DivergedError: If a weight, an average or a number of the optimizer is not finite, on all ranks.
        """
        parts = {key: checkpoint.get(key) for key in WEIGHTS_KEYS}
        if name := not_finite_on_any_rank({**parts, "ema": self.ema.averages}):
            raise DivergedError(f"{name} is not finite at {self.images_seen:,} images seen, so that is not saved")
        checkpoint[CHECKPOINT_KEY] = {
            "format": 1,
            "images_seen": self.images_seen,
            "config": self.config,
            "data_sha256": self.data_sha256,
            "ema": self.ema.averages,
            **({"sigma_rel": self.ema.widths} if self.ema.widths else {}),
            **{name: record for name in ("initial", "teacher") if (record := getattr(self, name))},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint[CHECKPOINT_KEY]
        self.images_seen = ours["images_seen"]
        if self._trainer is not None and "loops" in checkpoint:
            former = ours["config"].get("trainer", {}).get("accumulate_grad_batches", 1)
            _recount(checkpoint["loops"], former, self._trainer.accumulate_grad_batches)
        self.ema.averages = {name: ours["ema"][name] for name in self.ema.profiles}
        if self._begun:  # a sharded model is loaded after that
            self._begin()


def _recount(loops: dict[str, Any], former: int, present: int) -> None:
    """Give Lightning's counts of batches, after a whole optimizer step, for another number of batches a step."""
    for counts in loops["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            late = counts["processed"] - counts["completed"]  # saved in a hook at the batch's end
            counts |= {name: number // former * present for name, number in counts.items() if name != "completed"}
            counts["completed"] = counts["processed"] - late
