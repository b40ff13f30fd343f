"""A file of conf/ has what makes this choice this choice: no option that its class or function has by default."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from configurations import CONF

from denoiselab.nodes.signatures import REQUIRED, read

# Groups whose files have not been gone through yet.
LATER = {
    *(
        "classifier_guidance",
        "dequantisation",
        "evaluation",
        "grid",
        "likelihood",
        "logger",
        "metric",
    ),
    *("trace", "trainer"),
}
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.relative_to(CONF).parts[0] not in LATER]


def body(path: Path) -> dict:
    return {key: value for key, value in (yaml.safe_load(path.read_text()) or {}).items() if key != "defaults"}


def inherited(path: Path) -> dict:
    """What the files of the same group give that a file names before itself."""
    merged: dict = {}
    for entry in (yaml.safe_load(path.read_text()) or {}).get("defaults", ()):
        parent = path.parent / f"{str(entry).partition('@')[0]}.yaml"
        if parent.is_file():
            merged = {**merged, **inherited(parent), **body(parent)}
    return merged


def restated(node, above, where=""):
    """Options of a node, and of the nodes in it, with the value of the signature, which nothing above it changed."""
    signature = read(str(node.get("_target_", above.get("_target_"))))
    if signature is not None:
        for name, value in node.items():
            default = plain(signature.parameters[name].default) if name in signature.parameters else REQUIRED
            if name not in above and type(value) is type(default) and value == default:
                yield f"{where}{name}={value}"
    for name, value in node.items():
        if isinstance(value, dict):
            yield from restated(value, above.get(name) if isinstance(above.get(name), dict) else {}, f"{where}{name}.")


def plain(value):
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_file_restates_no_default(path):
    assert list(restated(body(path), inherited(path))) == []
