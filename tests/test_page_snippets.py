"""Every Python snippet of README and of the pages runs as it stands, on a small run; the first ones are short."""

import ast
import re

import pytest
from conftest import ROOT
from pages import PAGES, filled, snippets
from PIL import Image

import denoiselab

SHORT = ("README.md", "docs/pages/guides/python.md")


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """Where the snippets find a run and its samples."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "logs" / "digits").mkdir(parents=True)
    (folder / "logs" / "digits" / "run").symlink_to(finished)
    drawn = folder / "logs" / "digits" / "samples"
    drawn.mkdir()
    images = denoiselab.load(finished).sample(denoiselab.sampler("dpmpp_2m", steps=2), 64)
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(drawn / f"{number:06d}.png")
    return folder


def run(page, folder, monkeypatch):
    """The snippets of a page one after another, and the names that they have made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.chdir(folder)
    names = {}
    for number, snippet in enumerate(snippets(page)):
        snippet = filled(snippet.replace("logs/digits/<run id>/samples/<folder>", "logs/digits/samples"), folder)
        exec(compile(snippet, f"{page}, snippet {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page) and page not in SHORT])
def test_the_snippets_of_a_page_run(page, folder, monkeypatch):
    run(page, folder, monkeypatch)


@pytest.mark.parametrize("page", SHORT)
def test_the_snippets_give_what_they_say(page, folder, monkeypatch):
    names = run(page, folder, monkeypatch)
    assert names["images"].shape == (64, 1, 8, 8)
    if page != "README.md":
        assert names["points"].shape == (1000, 2)
        assert (names["scores"][0].metric, names["scores"][0].n) == ("fd_classifier", 64)


@pytest.mark.parametrize(
    ("word", "statements"), [("denoiselab.load", 5), ("denoiselab.exact", 4), ("denoiselab.score", 2)]
)
def test_the_first_snippet_of_each_kind_is_short(word, statements):
    first = next(snippet for page in SHORT for snippet in snippets(page) if word in snippet)
    assert len(ast.parse(first).body) <= statements


@pytest.mark.parametrize("page", PAGES)
def test_each_table_has_a_head(page):
    """Rows behind an empty line are a new table, which without a head is shown as text."""
    lines = ["", *(ROOT / page).read_text(encoding="utf-8").splitlines(), ""]
    heads = [n for n, line in enumerate(lines) if line.startswith("|") and not lines[n - 1].startswith("|")]
    assert [lines[n] for n in heads if not re.fullmatch(r"\|( ?:?-+:? ?\|)+", lines[n + 1])] == []
