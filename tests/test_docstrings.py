"""A public method without a docstring overrides one that has it, or is one that a protocol documents."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"


def bare_methods(path):
    """(class, method) of public methods without a docstring; stubs of protocols aside."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if not isinstance(part, ast.FunctionDef) or part.name.startswith("_"):
                    continue
                if not ast.get_docstring(part) and ast.unparse(part.body) != "...":
                    yield node.name, part.name


def protocol_methods(path):
    """Names of the methods that a protocol documents."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
            yield from (
                part.name for part in node.body if isinstance(part, ast.FunctionDef) and ast.get_docstring(part)
            )


PROTOCOLS = {name for path in SOURCE.rglob("*.py") for name in protocol_methods(path)}
BARE = {path: list(bare_methods(path)) for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("path", [path for path in BARE if BARE[path]], ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_method_without_a_docstring_overrides_a_documented_one(path):
    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    for owner, method in BARE[path]:
        documented = method in PROTOCOLS or inspect.getdoc(getattr(getattr(module, owner), method))
        assert documented, f"{owner}.{method}"


def test_a_method_that_overrides_nothing_is_found(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    def run(self):\n        return 1\n\n    def _own(self):\n        return 1\n")
    assert list(bare_methods(file)) == [("Mine", "run")]
    assert not inspect.getdoc(type("Mine", (), {"run": lambda self: None}).run)
