"""Processes that read images: how they start, share work, and end with the program."""

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
    """How they are started: forked from one that has imported what they need, and has no threads.

    A fork of the program itself would copy the locks that other threads hold. That one hears no Ctrl-C, which a
    terminal sends to all, and which would break into its imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["denoiselab.data.loading.batches"])
    multiprocessing.resource_tracker.ensure_running()  # which would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def end_with_parent() -> None:
    """Let this process end when the one that started it does, be it killed.

    It would wait for work from pipes that it holds open itself, and with it the process that it was forked from.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def count(workers: int | None) -> int:
    """How many processes read: as many as were asked for; None: one a core."""
    return len(os.sched_getaffinity(0)) if workers is None else workers


def in_parts(task: Callable[[int, int], T], firsts: Sequence[int], last: int, many: int) -> Generator[T]:
    """What `task` makes of each part, from one of `firsts` to the next or to `last`, in order.

    Args:
        task: Pickled once a process.
        firsts: Where parts begin, ascending.
        last: Where the last one ends.
        many: Processes.
    """
    pool = ProcessPoolExecutor(many, mp_context=clean_processes(), initializer=_start, initargs=(task,))
    try:
        with _held(signal.SIGINT, signal.SIGTERM):  # they would leave a process behind that is half started
            results = pool.map(_run, firsts, [*firsts[1:], last])
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _held(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals wait until the block ends."""
    if threading.current_thread() is not threading.main_thread():  # which no handler interrupts
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:  # also in place of what it did to other processes
            signal.raise_signal(first)


_task: Callable[[int, int], Any] | None = None


def _start(task: Callable[[int, int], Any]) -> None:
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    end_with_parent()


def _run(first: int, last: int) -> Any:
    assert _task is not None
    return _task(first, last)
