"""The documentation builds as a site without a warning, from the repository alone, and needs no other host."""

import re
import socket
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT

mkdocs_build = pytest.importorskip("mkdocs.commands.build")
from mkdocs.config import load_config  # noqa: E402

PAGES = ROOT / "docs" / "pages"
# Of HTML, pictures in pages and formulas; another one is a placeholder such as <name> outside of code.
TAGS = """
a article aside b blockquote body br button code dd details div dl dt em footer form h1 h2 h3 h4 h5 h6 head header hr
html i img input label li link main meta nav ol p path pre script section small span strong sub summary sup svg table
tbody td th thead title tr ul
defs marker rect text
math mfenced mfrac mi mn mo mover mrow mspace msqrt mroot mstyle msub msubsup msup mtable mtd mtext mtr munder
munderover
"""


class Page(HTMLParser):
    """What a page refers to, and the places in it to which others may refer."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.tags = set(), [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag == "link" and "canonical" not in values.get("rel", ""):
            self.loaded.append(values["href"])
        self.loaded += [values[name] for name in ("src", "srcset", "data", "poster") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages by their place in the site."""
    folder = tmp_path_factory.mktemp("site")

    def refuse(*_):
        raise OSError("the site is built without a network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "docs" / "mkdocs.yml"), site_dir=str(folder))
        assert config.strict
        mkdocs_build.build(config)  # ends with an error after a warning
    return {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}, folder


def test_every_page_is_built(site):
    pages, folder = site
    expected = {path.relative_to(PAGES).with_suffix(".html") for path in PAGES.rglob("*.md")}
    assert {path.relative_to(folder) for path in pages} - expected == {(folder / "404.html").relative_to(folder)}
    assert len(expected) > 30


def test_every_link_of_readme_and_the_files_beside_it_resolves():
    lost = []
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8"))
        lost += [(name, link) for link in links if not urlsplit(link).scheme and not (ROOT / link).exists()]
    assert lost == []


def test_every_link_and_picture_resolves(site):
    pages, folder = site
    lost = []
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = unquote(parts.path)
            target = path if not place else folder / place[1:] if place[0] == "/" else (path.parent / place).resolve()
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                lost.append((str(path.relative_to(folder)), link))
    assert lost == []


def test_every_name_of_the_code_resolves(site):
    """`[X][denoiselab.X]` stays as it is where the reference has no such part."""
    lost = {
        (path.name, name)
        for path in site[0]
        for name in re.findall(r"\]\[(denoiselab[\w.]*)\]", path.read_text(encoding="utf-8"))
    }
    assert lost == set()


def test_placeholders_are_shown(site):
    """`<name>` outside of backticks is a tag, which a browser hides."""
    assert set().union(*(page.tags for page in site[0].values())) <= set(TAGS.split())


def test_nothing_is_loaded_from_another_host(site):
    """Scripts, styles, fonts and pictures; diagrams would load a script when the page is read."""
    pages, folder = site
    loaded = [link for page in pages.values() for link in page.loaded]
    assert len(loaded) > 100
    assert [link for link in loaded if urlsplit(link).netloc] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.css"))
    assert re.findall(r"""(?:url\(|@import )\s*["']?(?:https?:)?//[^)"']*""", styles) == []
    assert not any("mermaid" in path.read_text(encoding="utf-8") for path in PAGES.rglob("*.md"))


def test_the_reference_has_public_parts(site):
    pages, folder = site
    ids = pages[folder / "reference" / "samplers.html"].ids
    assert {"denoiselab.samplers.DDIM", "denoiselab.samplers.Sampler.steps_for"} <= ids
    assert "denoiselab.load" in pages[folder / "reference" / "index.html"].ids


@pytest.mark.parametrize(("text", "display"), [("a $x_t = \\alpha$ b", "inline"), ("$$\n\\sigma^2\n$$", "block")])
def test_a_formula_becomes_mathml(text, display, monkeypatch):
    markdown = pytest.importorskip("markdown")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import hooks

    page = markdown.markdown(
        text, extensions=["pymdownx.arithmatex"], extension_configs={"pymdownx.arithmatex": {"generic": True}}
    )
    made = hooks.on_page_content(page)
    assert f'display="{display}"' in made
    assert "arithmatex" not in made
    assert "<msub>" in made or "<msup>" in made
