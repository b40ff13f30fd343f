"""The id of a run, in the name of its directory."""

from __future__ import annotations

import os
import secrets
import shlex
import zlib
from collections.abc import Sequence
from datetime import datetime

ID_VARIABLE = "DENOISELAB_RUN_ID"


def trial() -> str | None:
    """The id that a W&B agent gave to this trial of its sweep; None where no agent has started this process."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def name_multirun(command: Sequence[str]) -> None:
    """Give a multirun that a job of the cluster starts an id of its own, the same if the job starts again."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and trial() is None and not {ID_VARIABLE, "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        os.environ[ID_VARIABLE] = f"{job}-{zlib.crc32(shlex.join(command).encode()):08x}"


def run_id() -> str:
    """One id for all processes of a run: given, else the cluster's, else made once and handed to children.

    The trials of a W&B agent have ids of their own first, as one job of the cluster may run many of them.
    """
    if (own := trial()) is not None:
        return own
    for variable in (ID_VARIABLE, "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        if os.environ.get(variable, "none") != "none":
            return os.environ[variable]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(f"torchrun gave no --rdzv-id, so its processes share no run id; set {ID_VARIABLE} to one")
    made = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    os.environ[ID_VARIABLE] = made
    return made
