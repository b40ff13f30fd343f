"""`train.py`, a rank of which fails: FAILING="<rank> <place> <count> <how>".

The place is training (a step), saving (before a checkpoint), writing (a checkpoint's content is in its file, which has
another name yet), sampling or scoring (a cell); how is raise, exit, or the name of a signal.
"""

import itertools
import os
import signal

import torch

from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_train
from denoiselab.app.runs.devices import is_leader
from denoiselab.evaluation.cell import Scoring
from denoiselab.training.callbacks import Checkpoints
from denoiselab.training.module import DiffusionModule

PLACES = {
    "training": (DiffusionModule, "training_step"),
    "saving": (Checkpoints, "_save"),
    "writing": (torch, "save"),
    "sampling": (Scoring, "_update"),
    "scoring": (Scoring, "_scores"),
}
rank, place, at, how = os.environ["FAILING"].split()
calls = itertools.count()


def fail():
    if next(calls) != int(at) or is_leader() != (rank == "0"):
        return
    if how == "raise":
        raise ArithmeticError("two and two")
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), getattr(signal, f"SIG{how.upper()}"))


def failing(function):
    def call(*arguments, **options):
        if place != "writing":
            fail()
        result = function(*arguments, **options)
        if place == "writing":
            fail()
        return result

    return call


if __name__ == "__main__":
    owner, name = PLACES[place]
    setattr(owner, name, failing(getattr(owner, name)))
    cli.run("train", check_train)  # the children start this file too
