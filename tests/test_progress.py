"""Bars of long phases: one that moves on a terminal, whole lines in a file."""

import io
import sys

from denoiselab import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar("frontier", 2000, unit="call") as bar:
        for _ in range(20):
            bar.set_postfix(nfe=10, refresh=False)
            bar.update(100)
    with progress.bar("nothing", 0):
        pass
    with progress.bar("of another rank", 5, shown=False) as bar:
        bar.update(5)
    return stream.getvalue()


def test_a_file_gets_lines(monkeypatch):
    lines = written(io.StringIO(), monkeypatch).split("\n")
    assert len(lines) == 2
    assert lines[1] == ""  # the line ends
    assert lines[0].startswith("frontier: 100% of 2.00k call, ")
    assert "call/s" in lines[0]
    assert lines[0].endswith("nfe=10")
    assert lines[0].isprintable()


def test_a_terminal_gets_a_bar(monkeypatch):
    shown = written(Terminal(), monkeypatch)
    assert "\r" in shown
    assert "2.00k/2.00k" in shown
    assert "another rank" not in shown
