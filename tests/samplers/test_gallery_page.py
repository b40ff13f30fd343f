"""docs/pages/samplers.md shows every sampler of conf/sampler, with the order, noise and calls that it has."""

import pytest
from conftest import ROOT


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import sampler_tables

    return sampler_tables


def test_the_page_is_up_to_date(tables):
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.written(page) == page, "python docs/sampler_tables.py writes it."


def test_a_sampler_without_a_row_is_named(tables):
    page = tables.PAGE.read_text(encoding="utf-8")
    without = "\n".join(line for line in page.split("\n") if not line.startswith("| [`heun`]"))
    with pytest.raises(SystemExit, match="heun"):
        tables.written(without)


def test_a_row_of_no_sampler_is_named(tables):
    with pytest.raises(SystemExit, match="huen"):
        tables.written(tables.PAGE.read_text(encoding="utf-8").replace("[`heun`]", "[`huen`]", 1))
