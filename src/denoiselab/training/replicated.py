"""The strategy of `trainer=ddp`: every process has all weights, and gradients are averaged."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

# Seconds that a collective operation waits for the other ranks.
TIMEOUT = 600

# Processes start at different speeds.
_START = timedelta(minutes=5)


class Replicated(DDPStrategy):
    """Lightning's DDP, whose processes wait for each other for a limited time and can be started again by torchrun.

    Args:
        timeout: Seconds that a collective operation waits for the other ranks, which may work alone for as long.
        options: Of Lightning's strategy and torch's DistributedDataParallel.

    Raises:
        ValueError: If `timeout` < 1.
    """

    def __init__(self, timeout: float = TIMEOUT, **options: Any) -> None:
        super().__init__(timeout=waiting(timeout), **options)

    def setup_distributed(self) -> None:
        """Join the group of processes."""
        self.set_world_ranks()
        assert self.cluster_environment is not None
        assert self._timeout is not None
        join(self.cluster_environment, self._get_process_group_backend(), self._timeout, self.root_device)
        super().setup_distributed()  # finds the group

    def configure_ddp(self) -> None:
        """Wrap the model. Buffers that no checkpoint holds are constants, which the first rank need not send."""
        assert self.model is not None
        saved, buffers = self.model.state_dict().keys(), self.model.named_buffers()
        constants = [name for name, _ in buffers if name not in saved]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, constants)
        super().configure_ddp()


def waiting(timeout: float) -> timedelta:
    """The option `timeout` of a strategy.

    Raises:
        ValueError: If it is less than 1.
    """
    if timeout < 1:
        raise ValueError(f"trainer.strategy.timeout={timeout}: it must be at least 1, in seconds.")
    return timedelta(seconds=timeout)


def join(environment: ClusterEnvironment, backend: str, timeout: timedelta, device: torch.device) -> None:
    """Make this process one of the group, unless it is.

    torchrun's agent keeps one store for all attempts (`--max-restarts`), in which the addresses of processes that have
    ended would be taken for those of the present ones (pytorch issue 135712): each attempt has keys of its own.
    """
    if dist.is_initialized():
        return
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    rank, world = environment.global_rank(), environment.world_size()
    store, *_ = next(rendezvous("env://", rank, world, timeout=max(timeout, _START)))
    store.set_timeout(timeout)
    attempt = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} of {world}", store)
    on_gpu = None if device.type == "cpu" else device
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=world, timeout=timeout, device_id=on_gpu)
