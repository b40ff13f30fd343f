"""Several processes in a test."""

import multiprocessing

import torch
import torch.multiprocessing as mp


def on_ranks(function, arguments, count):
    """Run `function(rank, *arguments)` in new processes of one thread each.

    They are forks of a server that has made the slow imports and no thread. Forks of the tests' own process would
    crash or hang wherever a library of the tests before has started threads.
    """
    multiprocessing.set_forkserver_preload(["denoiselab.evaluation", "pytest"])
    mp.start_processes(_alone, (function, arguments), nprocs=count, start_method="forkserver")


def _alone(rank, function, arguments):
    torch.set_num_threads(1)
    function(rank, *arguments)
