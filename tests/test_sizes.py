"""The limits of CONTRIBUTING.md on files, folders and functions."""

import ast
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "denoiselab"
FILES = sorted(SOURCE.rglob("*.py"))
EXEMPT = "Over the limit of"  # and why


def functions(tree: ast.Module):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def exempt(node) -> bool:
    return EXEMPT in (ast.get_docstring(node) or "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 300 or exempt(tree)
    for node in functions(tree):
        assert node.end_lineno - node.lineno < 60 or exempt(node), node.name


def test_files_of_the_page_are_short():
    parts = [path for kind in ("js", "css", "html") for path in SOURCE.rglob(f"*.{kind}")]
    assert len(parts) > 3
    assert [path.name for path in parts if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_functions_take_few_parameters(path):
    for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if node.name == "__init__" or (path.name, node.name) == ("model.py", "sample"):
            continue
        assert len(names) - (names[:1] in (["self"], ["cls"])) <= 8 or exempt(node), node.name


def test_folders_hold_few_files():
    counts = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert max(counts.values()) <= 25
