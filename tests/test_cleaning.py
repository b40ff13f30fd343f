"""Names from files become paths, terminal lines, CSV cells and figures."""

import csv
import io

import pytest

from denoiselab.cleaning import aligned, csv_cell, figure_text, line, lines, path_part
from denoiselab.files import write_csv

HOSTILE = ["../../x", "a/b", "\x1b[31mred", "=1+1", "", ".", "..", "-", ".hidden", "a\nb", "\u202egnp", "x" * 400]
HOSTILE += ["\udce9.png", "a\0b", "c:\\d", "é" * 200, "~root", "$HOME"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_part_of_a_path_stays_one_part(name, tmp_path):
    part = path_part(name)
    path = tmp_path / part
    assert path.parent == tmp_path
    assert path.resolve().parent == tmp_path.resolve()
    path.touch()
    assert [one.name for one in tmp_path.iterdir()] == [part]
    assert part.isprintable()


def test_parts_of_usual_names_are_as_they_were_and_different_names_stay_different():
    for name in ("ddim", "ddim@karras", "ddim_scale=3", "dpmpp_2m_nfe0010", "a.b-c", "müsli"):
        assert path_part(name) == name
    assert path_part("ddim scale=3") == "ddim_scale=3"
    assert len({path_part(name) for name in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_but_printable_text_reaches_a_terminal(name):
    assert line(name).isprintable()
    line(name).encode()
    assert all(part.isprintable() for part in lines(name).split("\n"))
    rows = aligned([["name", "score"], [name, "1"]]).split("\n")
    assert len(rows) == 2
    assert line(name) in rows[1]


def test_text_of_several_lines_keeps_its_lines_and_tabs():
    """Hydra logs the jobs of a multirun behind a tab."""
    assert lines("\t#0 : a\tb\n\x1b") == "        #0 : a  b\n\\x1b"


def test_formulas_are_text_in_a_table_and_numbers_stay_numbers(tmp_path):
    for text in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", " =1", "\r=1", "|x"):
        assert str(csv_cell(text))[0] not in "=+-@|\t\r "
    for value in ("-0.5", "+1e-3", "ddim", "'=1", "-inf", 3, -2.5, None, True):
        assert csv_cell(value) == value
    write_csv(tmp_path / "a.csv", [{"=h": "=1", "b": -1.0}, {"b": "x,\x1b", "c": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [*csv.reader(file)] == [["'=h", "b", "c"], ["'=1", "-1.0", ""], ["", "x,\\x1b", ""]]


def test_dollars_in_a_figure_are_dollars():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle(figure_text(r"a $\frac$ b $\nothing{$"))
    figure.savefig(io.BytesIO(), format="png")


def test_a_table_cuts_no_name():
    long = "a_sampler_with_quite_a_long_name" * 8
    text = aligned([["NFE", "5", "10"], [long, "1.00 (3s)", ""], ["b", "", "2"]]).split("\n")
    assert len(text) == 3
    assert text[1].startswith(long)
    assert text[0].index("5") == text[1].rindex(")") == len(long) + 2 + len("1.00 (3s)") - 1
