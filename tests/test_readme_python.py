"""Every Python snippet in README runs as it stands, on a small run, and is as short as it promises to be."""

import ast
import re

import pytest
from conftest import ROOT
from PIL import Image

import denoiselab

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def places(finished, tmp_path_factory):
    """What stands for the paths that README leaves open."""
    folder = tmp_path_factory.mktemp("samples")
    images = denoiselab.load(finished).sample(denoiselab.sampler("dpmpp_2m", steps=2), 64)
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:06d}.png")
    return {"logs/digits/<run id>/samples/<folder>": str(folder), "logs/digits/<run id>": str(finished)}


def run(snippet, places):
    for left_open, given in places.items():
        snippet = snippet.replace(left_open, given)
    assert "<" not in re.sub(r"#.*", "", snippet), snippet
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number, places, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run(SNIPPETS[number], places)


@pytest.mark.parametrize(
    ("word", "statements"), [("denoiselab.load", 5), ("denoiselab.exact", 4), ("denoiselab.score", 2)]
)
def test_the_first_snippet_of_each_kind_is_short(word, statements):
    first = next(snippet for snippet in SNIPPETS if word in snippet)
    assert len(ast.parse(first).body) <= statements


def test_the_snippets_give_what_they_say(places, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images = run(next(snippet for snippet in SNIPPETS if "denoiselab.load" in snippet), places)["images"]
    assert images.shape == (64, 1, 8, 8)
    points = run(next(snippet for snippet in SNIPPETS if "denoiselab.exact" in snippet), places)["points"]
    assert points.shape == (1000, 2)
    scores = run(next(snippet for snippet in SNIPPETS if "denoiselab.score" in snippet), places)["scores"]
    assert (scores[0].metric, scores[0].n) == ("fd_classifier", 64)


@pytest.mark.parametrize(
    "page", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "pages").rglob("*.md"))]
)
def test_each_table_has_a_head(page):
    """Rows behind an empty line are a new table, which without a head is shown as text."""
    lines = ["", *(ROOT / page).read_text(encoding="utf-8").splitlines(), ""]
    heads = [n for n, line in enumerate(lines) if line.startswith("|") and not lines[n - 1].startswith("|")]
    assert [lines[n] for n in heads if not re.fullmatch(r"\|( ?:?-+:? ?\|)+", lines[n + 1])] == []
