"""Errors from outside a run as one sentence: a missing folder, full memory. `processes` has those of Lightning's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from denoiselab.errors import Failure

_FULL = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Within it, running out of memory is a `Failure`.

    Args:
        advice: Options to change, for the message.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not _FULL.search(text):
            raise
        short = ". ".join(text.split(". ")[:2]).removesuffix(".") or "no more"
        raise Failure(f"out of memory ({short}); to need less: {advice}.") from error


def less_memory(config: Mapping[str, Any]) -> str:
    """Options with which a training needs less memory, those that do not change its batches first."""
    trainer, network, batch = config["trainer"], config["network"], config["batch_size"]
    options = []
    parts = 2 * trainer["accumulate_grad_batches"]
    if batch % (parts * trainer["num_nodes"]) == 0:
        options.append(f"trainer.accumulate_grad_batches={parts} (the same batch in parts)")
    if network.get("checkpoint_levels", "all") != "all":
        options.append("network.checkpoint_levels=all (activations are computed twice)")
    if str(trainer["precision"]) == "32-true":
        options.append("trainer.precision=bf16-mixed")
    return ", ".join([*options, f"batch_size={max(1, batch // 2)}"])


def check_there(directory: Path) -> None:
    """Check that the run's directory is still there; files written later would restore only part of it."""
    if not (directory / "config.yaml").is_file():
        raise Failure(f"paths.run_dir={directory}: this folder was removed or moved, so nothing can be saved.")
