"""Signals that the parent ignores or blocks: what the program does with them; the tests do not inherit them."""

import pickle
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import ROOT

from denoiselab.training.interruption import Interruption, Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def handled_by(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_at_the_next_check(number):
    with handled_by(number, signal.SIG_DFL), Interruption() as interruption:
        signal.raise_signal(number)
        with pytest.raises(Stopped) as stop:
            interruption.check()
    assert stop.value.code == 128 + number


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_signals_of_schedulers_stop_as_sigterm_does_unless_a_library_has_them(number):
    with handled_by(number, signal.SIG_DFL), Interruption() as interruption:
        signal.raise_signal(number)
        with pytest.raises(Stopped) as stop:
            interruption.check()
    assert stop.value.code == 143
    assert pickle.loads(pickle.dumps(stop.value)).code == 143
    received = []

    def of_a_library(*_):
        received.append(number)

    of_a_library.__module__ = "submitit.core.job_environment"
    with handled_by(number, of_a_library), Interruption() as interruption:
        signal.raise_signal(number)
        interruption.check()
    assert received == [number]


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number):
    """As `train.py &` in a script starts: Ctrl-C is for the script, and SIGTERM stops the run."""
    (other,) = {*SIGNALS} - {number}
    with handled_by(number, signal.SIG_IGN), handled_by(other, signal.SIG_DFL):
        with Interruption() as interruption:
            interruption.install()
            signal.raise_signal(number)
            interruption.check()
            signal.raise_signal(other)
            with pytest.raises(Stopped):
                interruption.check()
        assert signal.getsignal(number) is signal.SIG_IGN


def test_the_program_takes_over_no_signal_that_is_ignored(invoke):
    with handled_by(signal.SIGTERM, signal.SIG_IGN):
        assert invoke("train.py", "sead=1").code == 2
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_tests_have_the_default_dispositions():
    """Wherever pytest was started: what the tests start inherits them."""
    numbers = [int(signal.Signals[f"SIG{name}"]) for name in ("INT", "TERM", "QUIT", "HUP", "CHLD")]
    started = (
        f"import os, signal, sys\nfor number in {numbers}: signal.signal(number, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {numbers})\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    program = (
        "import conftest, signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), "
        f"[signal.getsignal(number) is signal.SIG_IGN for number in {numbers}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", started, "-c", program],
        cwd=ROOT / "tests", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == f"set() {[False] * len(numbers)}\n", done.stderr
