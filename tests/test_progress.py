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


def test_a_stop_says_no_second_line_within_a_second_and_nothing_but_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    outer, inner = progress.bar("training", 2000), progress.bar("frontier", 1000)
    now = outer.start_t
    for bar, after in ((inner, 12), (outer, 14), (outer, 14.5)):
        bar._time = lambda after=after: now + after
        bar.update(200)
    inner.close()
    outer.close()
    lines = stream.getvalue().splitlines()
    assert [line.partition(" of")[0] for line in lines] == ["frontier:  20%", "training:  10%"]
    assert all(line.isprintable() for line in lines)
