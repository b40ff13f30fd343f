"""Stopping at a safe point on SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Stopped(SystemExit):
    """A signal to stop was received.

    Args:
        code: Exit code: 143 (SIGTERM) or 130 (Ctrl-C).
        advice: Message for the user.
    """

    def __init__(self, code: int, advice: str) -> None:
        super().__init__(code)
        self.advice = advice


class Interruption:
    """Context in which SIGTERM and the first Ctrl-C only set a flag; `check` raises `Stopped` if it is set.

    A second Ctrl-C stops at once. Handlers do nothing else, as an action on one rank alone would hang the others.
    Signals that are ignored stay ignored, such as Ctrl-C for the background processes of a shell script.

    Args:
        advice: Message for the user after a stop.
    """

    def __init__(self, advice: str = "stopped; nothing was written.") -> None:
        self.advice = advice
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, again if a library has replaced them."""
        for number in self._before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise Stopped(130, "stopped at once, at the second Ctrl-C; the last checkpoint is as it was.")
        self.signal = number

    def stop(self) -> NoReturn:
        """Exit with the signal's code, or with SIGTERM's if only another rank received one.

        Raises:
            Stopped: On every call.
        """
        raise Stopped(128 + (self.signal or signal.SIGTERM), self.advice)

    def check(self, *_: object) -> None:
        """Stop if a signal was received.

        Raises:
            Stopped: If it was.
        """
        if self.signal is not None:
            self.stop()
