"""Lightning's strategy of sharded trainings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from denoiselab.cleaning import line
from denoiselab.console import console
from denoiselab.training import sharded_checkpoints
from denoiselab.training.checkpoint_files import read_checkpoint
from denoiselab.training.replicated import TIMEOUT, join, waiting
from denoiselab.training.sharded_checkpoints import Place, parameter_of
from denoiselab.training.sharded_tensors import spread


class Sharded(ModelParallelStrategy):
    """Weights, gradients, optimizer and averages are spread over all devices (FSDP2).

    The base class is for two kinds of parallelism: by default it does not spread data within a machine, so that devices
    train apart, and it saves the first rank's part of what it does not know. Here all devices share the batch, and
    checkpoints are directories with the parts of all ranks, in the containers of format 1.

    Args:
        timeout: As of `Replicated`.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, timeout=waiting(timeout))
        self._group: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None

    def setup_environment(self) -> None:
        """Start the group of processes, and a mesh over all of them."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        self.set_world_ranks()
        assert self.cluster_environment is not None
        assert self._timeout is not None
        join(self.cluster_environment, self._get_process_group_backend(), self._timeout, self.root_device)
        super().setup_environment()
        mesh = self.device_mesh["data_parallel"]
        if not mesh.size() == self.world_size == dist.get_world_size():
            raise RuntimeError(f"{mesh.size()} of {dist.get_world_size()} processes share the batch")
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = mesh  # of one axis: the other one, of tensor parallelism, has one device
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores the optimizer of what `load_checkpoint` returns, as of any other strategy."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's part of all weights, with whole buffers."""
        return Strategy.lightning_module_state_dict(self)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """This rank's part of an optimizer's state."""
        return optimizer.state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give this rank's part of the weights to the model."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give this rank's part of their states to the optimizers."""
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a directory, all ranks together.

        Args:
            checkpoint: Tensors, of which each rank has its part, and plain containers.
            filepath: Of the directory.
            storage_options: `{"keep": k}` as of `AtomicCheckpointIO`; with `asynchronous: True` the tensors are copied,
                and written while the training goes on. What fails then is raised by the next save, or at the end.

        Raises:
            OSError: If it cannot be written, on all ranks.
        """
        self.wait()
        options, path = storage_options or {}, Path(self.broadcast(filepath))
        numbers, ordered = getattr(self.lightning_module, "numbers", ()), self._ordered()
        later = bool(options.get("asynchronous"))
        write = sharded_checkpoints.written(
            checkpoint,
            path,
            options.get("keep", 1),
            self._group,
            lambda place: parameter_of(place, ordered) in numbers,
            copy=later,
        )
        if not later:
            write()
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._saving = self._thread.submit(write)

    def wait(self) -> None:
        """Wait for what is being saved.

        Raises:
            OSError: If that failed, on all ranks.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """This rank's part of a checkpoint: of a directory that any number of ranks wrote, or of a file."""
        path, ordered = Path(self.broadcast(checkpoint_path)), self._ordered()
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()

        def like(place: Place) -> Tensor | None:
            return own.get(parameter_of(place, ordered) or "")

        if path.is_dir():
            return sharded_checkpoints.read_sharded(path, self._group, like)
        checkpoint = read_checkpoint(path)  # of a training that was not sharded
        tensors, rest = sharded_checkpoints.take_apart(checkpoint)
        parts = {name: spread(tensor, like(json.loads(name))) for name, tensor in tensors.items()}
        return sharded_checkpoints.put_together(parts, rest)

    def teardown(self) -> None:
        """Wait for what is being saved, then end as the base class does.

        If an error ends the training, that one is raised, and what fails here is printed.
        """
        failed = isinstance(sys.exc_info()[1], Exception)
        try:
            self.wait()
        except Exception as error:
            if not failed:
                raise
            console(stderr=True).print(f"the last checkpoint was not written: {line(error)}")
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
            super().teardown()

    def _ordered(self) -> list[str]:
        """Names of the optimizer's parameters, in its order."""
        assert self.lightning_module is not None
        names = {id(parameter): name for name, parameter in self.lightning_module.named_parameters()}
        return [
            names[id(p)] for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]
        ]
