"""A YAML file states what makes its choice this choice: no key has the value that the signature has anyway."""

from pathlib import Path

import pytest
import yaml
from configurations import CONF

from denoiselab.nodes import options, signatures
from denoiselab.nodes.options import SPECIAL, targets


def content(path: Path):
    return yaml.safe_load(path.read_text()) or {}


def inherited(path: Path):
    """What the files of its group that a file begins with state for its own node."""
    out = {}
    for entry in content(path).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            base = path.parent / f"{entry.partition('@')[0]}.yaml"
            out |= inherited(base) | {key: value for key, value in content(base).items() if key != "defaults"}
    return out


def restated(path: Path):
    whole = inherited(path)
    for place, node in targets(
        {**content(path), **({} if "_target_" not in whole else {"_target_": whole["_target_"]})}
    ):
        bare = {key: node[key] for key in SPECIAL if key in node}
        defaults = options.defaults(bare)
        for key, value in node.items():
            same = key in defaults and defaults[key] == value and type(defaults[key]) is type(value)
            if same and (place or whole.get(key, value) == value):
                yield f"{path.relative_to(CONF)}: {place}{'.' if place else ''}{key}"


@pytest.mark.parametrize("group", sorted(path.name for path in CONF.iterdir() if path.is_dir()))
def test_no_file_restates_a_default(group):
    found = [line for path in sorted((CONF / group).rglob("*.yaml")) for line in restated(path)]
    assert not found, f"these keys may go, as the signature has the same default: {found}"


def test_a_restated_default_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_restated_defaults.CONF", tmp_path)
    (tmp_path / "base.yaml").write_text("_target_: denoiselab.samplers.DDIM\nsteps: 5\neta: 0.5\n")
    (tmp_path / "own.yaml").write_text("defaults: [base, _self_]\neta: 0.0\nthreshold: null\n")
    assert [*restated(tmp_path / "base.yaml")] == []
    assert [*restated(tmp_path / "own.yaml")] == ["own.yaml: threshold"]  # eta is another one than the base's
    assert signatures.read("denoiselab.samplers.DDIM").parameters["eta"].default == 0.0
