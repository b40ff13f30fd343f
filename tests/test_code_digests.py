"""The digest of code changes with what can change a number, and with nothing else."""

import importlib
import sys
from functools import partial

import pytest

from denoiselab import code_digest
from denoiselab.code_digest import modules_of, sha256_of_code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's own package: `mine.rules` imports from `mine.parts` by way of `mine`; `mine.other` stands apart."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("from mine.parts import Part\n")
    (folder / "parts.py").write_text("class Part:\n    size = 1\n")
    (folder / "rules.py").write_text(
        "from mine import Part\n\nclass Rule:\n    def __init__(self):\n        self.x = Part()\n"
    )
    (folder / "other.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    clear()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    clear()


def clear():
    for cached in (code_digest._is_ours, code_digest._tree, code_digest._parsed, code_digest._origin):
        cached.cache_clear()


def test_modules_are_those_of_objects_and_of_what_they_hold(package):
    rule = importlib.import_module("mine.rules").Rule()
    assert modules_of({"a": [partial(print, rule)]}, 3, "text", None) == ["mine.parts", "mine.rules"]
    assert modules_of(modules_of) == []  # that of digests has no number of its own
    assert modules_of(code_digest.sha256_of_code, rule.__class__) == ["mine.rules"]


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("parts.py", "class Part:\n    size = 2\n", True),
        ("parts.py", '"""Parts."""\n\n# One.\nclass Part:\n\n    """A part."""\n    size=1\n', False),
        ("rules.py", "from mine import Part\n\nclass Rule:\n    pass\n", True),
        ("other.py", "y = 2\n", False),
        ("__init__.py", "from mine.parts import Part\nimport mine.other\n", False),
    ],
)
def test_a_digest_changes_with_statements_of_what_is_imported(package, file, text, changes):
    importlib.import_module("mine.rules")
    before = sha256_of_code(["mine.rules"])
    assert before == sha256_of_code(["mine.rules"])
    (package / file).write_text(text)
    clear()
    assert (sha256_of_code(["mine.rules"]) != before) == changes


def test_a_module_that_is_gone_has_another_digest(package):
    importlib.import_module("mine.rules")
    before = sha256_of_code(["mine.rules"])
    (package / "rules.py").unlink()
    clear()
    assert sha256_of_code(["mine.rules"]) != before
    for name in ("../../x", "os.path", "", "mine..rules", "nothing"):
        assert len(sha256_of_code([name])) == 64


def test_a_sampler_does_not_depend_on_another_and_none_on_what_shows_numbers():
    def involved(name):
        found, stack = set(), [name]
        while stack:
            if (one := stack.pop()) not in found:
                found.add(one)
                stack += code_digest._parsed(one)[1]
        return found

    ddim = involved("denoiselab.samplers.ddim")
    assert {"denoiselab.samplers.base", "denoiselab.samplers.transfer", "denoiselab.denoiser"} <= ddim
    assert not {"denoiselab.samplers.unipc", "denoiselab.samplers", "denoiselab.evaluation.report.tables"} & ddim
    digest = sha256_of_code(["denoiselab.samplers.ddim"])
    assert digest == sha256_of_code(
        ["denoiselab.samplers.ddim", "denoiselab.evaluation.report.tables", "denoiselab.app.commands.cli"]
    )
    assert digest != sha256_of_code(["denoiselab.samplers.unipc"])


def test_a_package_that_imports_from_itself_has_a_digest(package):
    """As `from .mine import Part` in `mine/__init__.py` does, of a module with the package's name."""
    (package / "mine.py").write_text("class Part: pass\n")
    (package / "__init__.py").write_text("from .mine import Part\nfrom mine import Part as Again\n")
    (package / "rules.py").write_text("from mine import Again, Part\n")
    importlib.import_module("mine.rules")
    assert len(sha256_of_code(["mine.rules"])) == 64


def test_packages_of_another_environment_are_not_ours(package, monkeypatch):
    """An environment may see another one's packages, by `--system-site-packages` or PYTHONPATH."""
    place = package.parent / "lib" / "site-packages"
    (place / "theirs").mkdir(parents=True)
    (place / "theirs" / "__init__.py").write_text("z = 1\n")
    monkeypatch.syspath_prepend(str(place))
    importlib.import_module("theirs")
    try:
        assert not code_digest._is_ours("theirs")
    finally:
        del sys.modules["theirs"]
