"""Stopping at a safe point on Ctrl-C, SIGTERM, and the signals of schedulers, SIGUSR1 and SIGUSR2."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, NoReturn

# Those that stop a run; a scheduler's warning before it ends a job may be any but the first.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

PRUNED = 76  # exit code of a run that its sweep has stopped


def code_of(number: int) -> int:
    """The exit code after a signal: 130 after Ctrl-C, 143 after the others."""
    return 130 if number == signal.SIGINT else 143


def is_foreign(number: int) -> bool:
    """Whether a signal is ignored, or is one of a scheduler's that another library handles, such as submitit."""
    handler = signal.getsignal(number)
    library = (getattr(handler, "__module__", None) or "").partition(".")[0]
    taken = number in (signal.SIGUSR1, signal.SIGUSR2) and callable(handler) and library != "denoiselab"
    return handler is signal.SIG_IGN or taken


class Stopped(SystemExit):
    """A signal to stop was received.

    Args:
        code: Exit code, see `code_of`.
        advice: Message for the user.
    """

    def __init__(self, code: int, advice: str) -> None:
        super().__init__(code)
        self.advice = advice

    def __reduce__(self) -> tuple[type[Stopped], tuple[object, str]]:
        return Stopped, (self.code, self.advice)


class Pruned(Stopped):
    """The run's sweep has stopped it, as others are better.

    Args:
        value: The last score.
        advice: Message for the user.
    """

    def __init__(self, value: float, advice: str) -> None:
        super().__init__(PRUNED, advice)
        self.value = value

    def __reduce__(self) -> tuple[type[Stopped], tuple[Any, str]]:
        return Pruned, (self.value, self.advice)


class Interruption:
    """Context in which `SIGNALS`, of Ctrl-C the first, only set a flag; `check` raises `Stopped` if it is set.

    A second Ctrl-C stops at once. Handlers do nothing else, as an action on one rank alone would hang the others.
    Signals that are ignored stay ignored, such as Ctrl-C for the background processes of a shell script, and those of a
    scheduler stay with the library that handles them.

    Args:
        advice: Message for the user after a stop.
    """

    def __init__(self, advice: str = "stopped; nothing was written.") -> None:
        self.advice = advice
        self.signal: int | None = None
        self.pruned: float | None = None  # the score at which the run's sweep has stopped it, on all ranks
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = {number: signal.getsignal(number) for number in SIGNALS if not is_foreign(number)}
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

    @property
    def asked(self) -> bool:
        """Whether the run is to save and stop at the next boundary."""
        return self.signal is not None or self.pruned is not None

    def stop(self) -> NoReturn:
        """Exit with the signal's code, or with SIGTERM's if only another rank received one.

        Raises:
            Stopped: On every call.
        """
        if self.pruned is not None and self.signal is None:
            raise Pruned(self.pruned, f"pruned at a score of {self.pruned:.4g}: others of its sweep are better.")
        raise Stopped(code_of(self.signal or signal.SIGTERM), self.advice)

    def check(self, *_: object) -> None:
        """Stop if a signal was received.

        Raises:
            Stopped: If it was.
        """
        if self.signal is not None:
            self.stop()
