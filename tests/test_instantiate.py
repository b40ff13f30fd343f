"""The allow-list of targets: which functions a configuration may call, and that they are harmless."""

import ast
import importlib
import inspect
import pkgutil

import pytest

from denoiselab.errors import BadInput
from denoiselab.nodes import instantiate
from denoiselab.nodes.instantiate import MODEL, construct, resolve

# All that modules whose functions may be targets import beside this package.
HARMLESS = {
    *(
        "__future__",
        "abc",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "functools",
        "itertools",
        "math",
        "typing",
    ),
    *("pathlib", "scipy", "torch", "torchode"),
}
# Calls that reach files, other programs or code in text.
REACH = {
    "open",
    "exec",
    "eval",
    "compile",
    "__import__",
    "load",
    "save",
    "load_state_dict",
    "hub",
    "system",
    "import_module",
}


def modules():
    """Those of all packages in which functions may be targets."""
    for prefix in instantiate._FUNCTIONS:
        module = importlib.import_module(prefix.rstrip("."))
        yield module
        for info in pkgutil.iter_modules(getattr(module, "__path__", []), prefix):
            yield importlib.import_module(info.name)


def functions(tree):
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]


def test_functions_that_may_be_targets_reach_no_file_and_no_code_in_text():
    """Also by the modules that theirs import; a class may, as its author meant it to be a target."""
    seen = []
    for module in modules():
        tree = ast.parse(inspect.getsource(module))
        if not functions(tree):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= HARMLESS | {"denoiselab"}, module.__name__
            assert "denoiselab.files" not in names or not functions(tree), module.__name__
        for function in functions(tree):
            seen.append(function.name)
            for node in ast.walk(function):
                name = getattr(node, "id", None) or getattr(node, "attr", None)
                assert name not in REACH, (module.__name__, function.name)
    assert {"eps", "linear", "heun", "snr", "l2", "rademacher"} <= set(seen)


@pytest.mark.parametrize(
    "name",
    [
        "denoiselab.frozen.autoencoders.write",
        "denoiselab.data.files.fetch",
        "denoiselab.objectives.weights.torch.load",
        "denoiselab.schedules.betas._line",
        "denoiselab.networks.layers.zero_init",
        "denoiselab.parameterizations.Protocol",
        "denoiselab.files.write_text",
        "torch.load",
    ],
)
def test_other_functions_may_not(name):
    with pytest.raises(BadInput, match=r"network\._target_="):
        resolve(name, "network", MODEL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"weighting": {"_target_": "denoiselab.objectives.weights.unit", "_partial_": True}},
            "objective.weighting=unit: must be called as weighting(level: Level) -> Tensor "
            "(see denoiselab.objectives.weights.Weighting); it takes (level: 'Level', space: 'Para",
        ),
        (
            {"level_distribution": {"_target_": "denoiselab.objectives.decoders.ContinuousGaussian"}},
            "objective.level_distribution=ContinuousGaussian: must be an instance of "
            "denoiselab.objectives.level_distributions.LevelDistribution, and ContinuousGaussian is not one.",
        ),
    ],
)
def test_parts_of_parts_are_held_to_the_contract_of_their_annotation(options, said):
    node = {
        "_target_": "denoiselab.objectives.DenoisingObjective",
        "weighting": {"_target_": "denoiselab.objectives.weights.snr", "_partial_": True},
        "level_distribution": {"_target_": "denoiselab.objectives.level_distributions.UniformTime"},
    }
    construct(node, "objective")
    with pytest.raises(BadInput) as refused:
        construct({**node, **options}, "objective")
    assert str(refused.value).startswith(said)
