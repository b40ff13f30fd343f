"""Processes that read images: start, division of work, and termination."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def clean_processes() -> Any:
    """The multiprocessing context: processes are forked from a server that has imported the package and has no threads.

    A fork of the program itself would copy locks that other threads hold. The server ignores Ctrl-C, which a terminal
    sends to all processes and which would interrupt its imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["denoiselab.data.loading.batches"])
    multiprocessing.resource_tracker.ensure_running()  # before the signal is blocked, because it unblocks it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def end_with_parent() -> None:
    """End this process when the one that started it ends, even if that was killed.

    It would otherwise wait for work from pipes that it holds open itself, and the fork server with it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def count(workers: int | None) -> int:
    """Number of reading processes: `workers`, or one per core for None."""
    return len(os.sched_getaffinity(0)) if workers is None else workers


def in_parts(task: Callable[[int, int], T], firsts: Sequence[int], last: int, many: int) -> Generator[T]:
    """Results of `task(first, end)` for each part, in order.

    Args:
        task: Pickled once per process.
        firsts: First item of each part, ascending.
        last: End of the last part, exclusive.
        many: Number of processes.
    """
    pool = ProcessPoolExecutor(many, mp_context=clean_processes(), initializer=_start, initargs=(task,))
    try:
        with _held(signal.SIGINT, signal.SIGTERM):  # an interrupt here would leave half-started processes
            results = pool.map(_run, firsts, [*firsts[1:], last])
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _held(*numbers: signal.Signals) -> Iterator[None]:
    """Delay signals until the block ends."""
    if threading.current_thread() is not threading.main_thread():  # signal handlers run in the main thread only
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)


_task: Callable[[int, int], Any] | None = None


def _start(task: Callable[[int, int], Any]) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process terminates the workers
    end_with_parent()


def _run(first: int, last: int) -> Any:
    assert _task is not None
    return _task(first, last)
