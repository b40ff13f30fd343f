"""`train.py`, a rank of which fails: FAILING="<rank> <batch> <how>", with how = raise, exit, kill, stop or a signal."""

import os
import signal

from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_train
from denoiselab.training.module import DiffusionModule

rank, at, how = os.environ["FAILING"].split()
step, calls = DiffusionModule.training_step, iter(range(10**9))


def failing(self, batch, batch_idx):
    if next(calls) == int(at) and self.global_rank == int(rank):
        if how == "raise":
            raise ArithmeticError("two and two")
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), getattr(signal, f"SIG{how.upper()}"))
    return step(self, batch, batch_idx)


if __name__ == "__main__":
    DiffusionModule.training_step = failing
    cli.run("train", check_train)  # the children start this file too
