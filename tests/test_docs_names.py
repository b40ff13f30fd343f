"""Every `group=name` that the documentation writes is a choice of conf/."""

import re

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *(ROOT / "docs" / "pages").rglob("*.md")]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "paths")
# After a group: a name, unless it is an option's value such as a list, a placeholder or a part of a word.
CHOICE = re.compile(rf"(?<![\w./@])({'|'.join(GROUPS)})=([a-z]\w*)(?![\w./:@<*])")


def names(group):
    """The choices of a group, and of the example package."""
    folders = (ROOT / "conf", ROOT / "docs" / "example_package" / "src" / "labparts" / "conf")
    return {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_choices_in_the_documentation_exist(page):
    written = set(CHOICE.findall(page.read_text(encoding="utf-8")))
    assert {f"{group}={name}" for group, name in written if name not in names(group) | {"none", "null"}} == set()


def test_names_in_the_list_of_papers_exist():
    written = set(re.findall(r"`([a-z]\w*_\w+)`", (ROOT / "docs" / "pages" / "papers.md").read_text(encoding="utf-8")))
    assert written - {path.stem for path in (ROOT / "conf").rglob("*.yaml")} == set()


def test_a_misspelt_choice_is_found():
    assert CHOICE.findall("`sampler=dpm_2m`, `sampler=[ddim]`, `sampler=dpm_*`, task.sampler=x") == [
        ("sampler", "dpm_2m")
    ]
