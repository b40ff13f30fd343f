"""Several processes in a test."""

import torch
import torch.multiprocessing as mp


def on_ranks(function, arguments, count):
    """Run `function(rank, *arguments)` in new processes of one thread each.

    Forked ones would crash or hang wherever a library of the tests before has started threads.
    """
    mp.start_processes(_alone, (function, arguments), nprocs=count, start_method="spawn")


def _alone(rank, function, arguments):
    torch.set_num_threads(1)
    function(rank, *arguments)
