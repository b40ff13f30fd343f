"""How the ranks that score together stop at a signal to one of them."""

from __future__ import annotations

import torch
import torch.distributed as dist

from denoiselab.evaluation.ranks import shared
from denoiselab.training.interruption import Interruption


def check_drawing(interruption: Interruption) -> None:
    """Stop if a signal has come to any rank: while a rank draws its share of a cell, as shares are gathered even then.

    Raises:
        Stopped: If one has.
    """
    own = interruption.signal
    if dist.is_initialized() and (heard := shared("signal", None if own is None else str(own))):
        interruption.signal = int(heard)
    interruption.check()


def agree(interruption: Interruption, device: torch.device) -> None:
    """Stop all ranks if one has a signal; if one stopped alone, the others would wait for it.

    Raises:
        Stopped: If one has.
    """
    if dist.is_initialized():
        flag = torch.tensor(int(interruption.signal is not None), device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        if flag:
            interruption.stop()
