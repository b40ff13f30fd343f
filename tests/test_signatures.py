"""Signatures read from source text are those of the imported objects; defaults are completed, types are checked."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
import textwrap
import typing

import pytest
import yaml
from configurations import CONF

from denoiselab.errors import BadInput
from denoiselab.nodes import options, signatures
from denoiselab.nodes.instantiate import resolve
from denoiselab.nodes.options import targets
from denoiselab.nodes.signatures import COMPUTED, REQUIRED


def named():
    found = set()
    for path in CONF.rglob("*.yaml"):
        found |= {node["_target_"] for _, node in targets(yaml.safe_load(path.read_text()))}
    return sorted(name for name in found if not name.startswith("denoiselab.app."))


def test_signatures_from_source_are_those_of_the_imported_objects():
    """Of all that conf/ names: parameters, their order, defaults, and whether more are taken."""
    assert len(named()) > 200
    for name in named():
        read, true = signatures.read(name), signatures.inspected(resolve(name, "part"))
        assert read is not None, name
        assert read.is_class == true.is_class
        if not true.more:
            assert [*read.parameters] == [*true.parameters], name
        for parameter in true.parameters.values():
            default = read.parameters[parameter.name].default
            if default is COMPUTED:
                assert parameter.default is not REQUIRED
            elif parameter.default is not default:
                factory = parameter.default.__class__.__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
                assert factory or default == parameter.default, (name, parameter.name)


def test_every_option_of_a_shipped_part_has_a_meaning():
    """A function without defaults is called with a batch, so its parameters are no options."""
    silent = []
    for name in (name for name in named() if name.startswith("denoiselab.")):
        signature = signatures.read(name)
        options_ = [one for one in signature.parameters.values() if signature.is_class or one.default is not REQUIRED]
        silent += [f"{name}.{one.name}" for one in options_ if not one.doc.strip()]
    assert silent == []


def test_almost_all_defaults_are_literals():
    """But for objects that are made for each instance, and functions."""
    computed = [
        f"{name}.{one.name}"
        for name in named()
        for one in signatures.read(name).parameters.values()
        if one.default is COMPUTED and not is_made(name, one.name)
        if not callable(signatures.inspected(resolve(name, "part")).parameters[one.name].default)
    ]
    assert len(computed) < 3, computed


def is_made(name, parameter):
    """Whether the default is an object that is made for each instance, as the grid of a sampler."""
    module, _, attribute = name.rpartition(".")
    fields = getattr(getattr(importlib.import_module(module), attribute), "__dataclass_fields__", {})
    return parameter in fields and fields[parameter].default_factory is not dataclasses.MISSING


def test_reading_imports_nothing():
    script = "\n".join(
        [
            "import sys",
            "from denoiselab.nodes import options, signatures",
            "assert signatures.read('denoiselab.samplers.DPMSolverPP').parameters['order'].type() is int",
            "options.check({'sampler': {'_target_': 'denoiselab.samplers.DDIM', 'steps': 5, 'threshold': None}})",
            "print([name for name in sys.modules if name.startswith(('torch', 'denoiselab.samplers'))])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PACKAGE = '''
    from collections.abc import Callable, Mapping, Sequence
    from dataclasses import dataclass, field
    from typing import Literal, NamedTuple, TypedDict
    try:
        from typing import Unpack
    except ImportError:
        from typing_extensions import Unpack

    STEPS = 4 * 5
    Kind = Literal["a", "b"]
    Other = Kind | None


    class Base:
        """A base.

        Args:
            rate: Of the base. It has a second sentence.
            kind: One of
                two letters.
        """

        def __init__(self, rate: float, *, kind: Kind = "a", other: "Other" = None) -> None: ...


    class Inherits(Base):
        """Nothing of its own."""


    class PassesOn(Base):
        """Passes on.

        Args:
            steps: How many.
        """

        def __init__(self, steps: int = STEPS, call: Callable[[int], int] = len, **rest: object) -> None:
            super().__init__(kind="b", **rest)


    class TakesAll:
        def __init__(self, a=-1.5, **rest): ...


    class Plan(TypedDict, total=False):
        """Sizes.

        Args:
            width: Of a layer.
        """

        width: int
        depth: Sequence[int]


    class Planned:
        def __init__(self, shape: tuple[int, ...] = (1, 2), **plan: Unpack[Plan]) -> None: ...


    @dataclass(kw_only=True)
    class Fields:
        name: str
        parts: list[int] = field(default_factory=list)
        hidden: int = field(default=1, init=False)
        table: Mapping[str, Base] | None = None


    @dataclass(kw_only=True)
    class MoreFields(Fields):
        name: str = "x"
        last: bool = True


    class Pair(NamedTuple):
        one: int
        two: str = "b"


    def function(x, /, y: int = 2, *, z: "str" = "z"): ...
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose classes are re-exported."""
    folder = tmp_path / "laboratory"
    (folder / "parts").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .parts import *\nfrom laboratory.parts import Inherits as Renamed\n")
    (folder / "parts" / "__init__.py").write_text("from .all import Base, Inherits\nfrom . import all\n")
    (folder / "parts" / "all.py").write_text(textwrap.dedent(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "laboratory.parts.all"
    for name in [name for name in sys.modules if name.partition(".")[0] == "laboratory"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["Base", "Inherits", "TakesAll", "Fields", "MoreFields", "Pair", "function", "PassesOn", "Planned"]
)
def test_forms_of_signatures(package, name):
    read = signatures.read(f"{package}.{name}")
    module = __import__(package, fromlist=[name])
    true = inspect.signature(getattr(module, name)).parameters
    fixed = [one for one in true.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [*read.parameters][: len(fixed)] == [one.name for one in fixed]
    if name == "TakesAll":
        assert read.more
    if name == "PassesOn":
        assert [*read.parameters] == ["steps", "call", "rate", "other"]
        assert not read.more
        assert read.parameters["steps"].default == 20
        assert read.parameters["call"].default is COMPUTED
    if name == "Planned":
        assert [*read.parameters] == ["shape", "width", "depth"]
        assert read.parameters["width"].doc == "Of a layer."
        assert not read.more


def test_documentation_and_types(package):
    read = signatures.read(f"{package}.Inherits").parameters
    assert read["rate"].doc == "Of the base."
    assert read["kind"].doc == "One of two letters."
    assert read["kind"].type() == typing.Literal["a", "b"]
    assert read["other"].type() == typing.Literal["a", "b"] | None
    assert signatures.read("laboratory.Renamed").parameters.keys() == read.keys()


def test_what_cannot_be_read_is_none(package):
    assert signatures.read("laboratory.Absent") is None
    assert signatures.read("absent_package.Class") is None
    assert signatures.read("torch.nn.Linear") is not None
    assert signatures.read("builtins.open") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"_target_": "DDIM", "steps": 5.5}, "sampler.steps=5.5: should be a valid integer"),
        ({"_target_": "DDIM", "steps": True}, "sampler.steps=True: should be a valid integer"),
        ({"_target_": "DDIM", "steps": "???"}, "sampler.steps: is not given"),
        ({"_target_": "DDIM", "step": 5}, "did you mean 'sampler.steps'? DDIM takes: spacing, steps, eta"),
        ({"_target_": "DDIM", "spacing": "karras"}, "sampler.spacing='karras': it must be a node with a _target_."),
        ({"_target_": "DDIM", "spacing": {"_target_": "Karras", "rho": "7"}}, "sampler.spacing.rho='7'"),
        ({"_target_": "DDIM", "_partial_": True}, "DDIM must be built whole"),
        ({"_target_": "DDIM", "threshold": 1}, "must be a node"),
    ],
)
def test_options_are_refused_without_importing(value, message):
    value = {**value, "_target_": f"denoiselab.samplers.{value['_target_']}"}
    if isinstance(value.get("spacing"), dict):
        value["spacing"]["_target_"] = "denoiselab.samplers.spacing.Karras"
    with pytest.raises(BadInput) as refused:
        options.check({"sampler": value})
    assert message in str(refused.value)


def test_nodes_are_completed_by_literal_defaults():
    node = {"sampler": [{"_target_": "denoiselab.samplers.DPMSolverPP", "steps": 5, "order": 3}]}
    done = options.completed(node)["sampler"][0]
    true = inspect.signature(resolve(done["_target_"], "sampler")).parameters
    given = {name: one.default for name, one in true.items() if one.default is not inspect.Parameter.empty}
    del given["spacing"]  # an object
    assert done == {**given, **node["sampler"][0]}
    assert "max_steps" not in options.completed({"_target_": "pytorch_lightning.Trainer"})
    assert options.completed({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}


def test_attributes_of_classes_are_read_from_source():
    tasks = "denoiselab.app.tasks"
    read = [f"{tasks}.{name}" for name in ("search.Search", "frontier.ScoreFrontier", "encode.Encode", "gone.Gone")]
    assert [signatures.class_attribute(name, "goes_on", default=False) for name in read] == [True, True, False, False]
