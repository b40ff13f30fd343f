"""Who starts a training's processes, torchrun, SLURM or this program, and whether they are as many as asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from denoiselab.console import console
from denoiselab.errors import BadInput

if TYPE_CHECKING:
    import pytorch_lightning as pl

# Names of SLURM jobs in which Lightning starts the processes itself.
_INTERACTIVE = ("bash", "interactive")


def check_launch(devices: int, nodes: int) -> None:
    """Check that torchrun or SLURM has started a process for each device, or will.

    Args:
        devices: Number on each node.
        nodes: Number of nodes.

    Raises:
        BadInput: If it has not.
    """
    asked = f"trainer.devices={devices} x trainer.num_nodes={nodes}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        world, local = (_count(name) or 1 for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if world != devices * nodes:
            raise BadInput(
                f"{asked}: torchrun has started {world} processes, {local} on this node; give trainer=ddp "
                f"trainer.devices={local} trainer.num_nodes={world // max(1, local)}."
            )
        return
    tasks = _count("SLURM_NTASKS")
    ours = "LOCAL_RANK" in os.environ and "SLURM_STEP_ID" not in os.environ  # started by this program
    if tasks is None or ours or os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return
    line = f"srun --nodes={nodes} --ntasks-per-node={devices} python {' '.join(sys.argv[:1])} ..."
    if tasks != devices * nodes:
        raise BadInput(f"{asked}: SLURM gives {tasks} task(s); start it as {line}, or give the devices that there are.")
    if tasks > 1 and (given := _count("SLURM_NNODES")) not in (None, nodes):
        raise BadInput(f"{asked}: SLURM gives {given} node(s); start it as {line}, or give trainer.num_nodes={given}.")
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise BadInput(f"{asked}: SLURM has --ntasks={tasks} without --ntasks-per-node; start it as {line}.")
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise BadInput(f"{asked}: SLURM has {tasks} tasks, and srun has started none of them; start it as {line}.")


def _count(name: str) -> int | None:
    """The number in an environment variable of a launcher; None without one."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise BadInput(f"{name}={text}: this variable of the environment must be a number of processes or nodes.")
    return int(text) if text else None


def check_alone(what: str) -> None:
    """Refuse what one process does where torchrun or srun has started several, each of which would do all of it.

    Args:
        what: What is asked for, for the message.

    Raises:
        BadInput: If so.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    count = os.environ.get("WORLD_SIZE" if by_torchrun else "SLURM_STEP_NUM_TASKS", "1")
    if count != "1":
        name = "torchrun" if by_torchrun else "srun"
        raise BadInput(f"{what}: {name} has started {count} of this program; start it once.")


def check_world(trainer: pl.Trainer) -> None:
    """Check that a Trainer has as many processes as it was asked for.

    Raises:
        BadInput: If it has not.
    """
    devices, nodes, world = trainer.num_devices, trainer.num_nodes, trainer.world_size
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else world
    if world != devices * nodes or launched != world:
        raise BadInput(
            f"trainer.devices={devices} x trainer.num_nodes={nodes}: {launched} process(es) were started, and "
            f"the strategy joins {world}; give trainer=ddp, and as many as torchrun or srun starts."
        )


def check_requeue(*, asked: bool) -> None:
    """Refuse to put a job into the queue again that is none of SLURM's.

    Raises:
        BadInput: If so.
    """
    if asked and "SLURM_JOB_ID" not in os.environ:
        raise BadInput("requeue=true: this is no job of SLURM's (SLURM_JOB_ID is not set); leave it out.")


def requeue() -> None:
    """Put this job of SLURM's into the queue again, by its number, or the number of its array and in it."""
    job, array = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_JOB_ID")
    number = job if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    err = console(stderr=True)
    try:
        command = ["scontrol", "requeue", number]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
        said = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    err.print(f"SLURM's job {number} is not queued again: {said}" if said else f"SLURM's job {number} is queued again.")
