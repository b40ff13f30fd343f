"""Checks of a job's configuration that read it alone: they import no part of it, so errors come within a second."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab import released
from denoiselab.app.config import choices, overrides
from denoiselab.app.config.settings import Config, SampleSettings, TrainSettings, parse
from denoiselab.errors import BadInput, not_given
from denoiselab.nodes import options, signatures
from denoiselab.nodes.instantiate import check_names, resolve
from denoiselab.nodes.signatures import class_attribute

# The option of data by which the user allows code in them to run.
_TRUST = "trust_pickles"


def check_nodes(config: Config) -> None:
    """Check the nodes of any program."""
    check_names(config)
    if isinstance(data := config.get("data"), Mapping):
        check_root(data)
    options.check(config)


def check_trust(config: Config, given: Sequence[str]) -> None:
    """Refuse files that allow code in data to run; only the overrides `given` on the command line may."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [(f"{path}.{key}".lstrip("."), value) for key, value in node.items()]
        elif isinstance(node, list):
            waiting += [(f"{path}.{index}", value) for index, value in enumerate(node)]
        elif path.endswith(_TRUST) and node and not overrides.typed(given, path):
            raise BadInput(f"{path}={node}: is set by a file; it takes effect only on the command line.")


def check_train(config: Config) -> None:
    """Check the configuration of `train.py`."""
    settings = parse(TrainSettings, config)
    check_shape(config["data"])
    if config["conditioner"].get("num_classes", 0) is None:
        raise BadInput("data.num_classes: is not given, and conditioner=label needs it; pass data.num_classes=...")
    check_conditioner(config)
    check_nodes(config)
    evaluation = settings.evaluation
    listed = choices.sampler_nodes(evaluation.samplers)
    choices.sampler_nodes([name for name in evaluation.extra_nfe if name not in listed])  # a misspelt one would be lost
    choices.metric_nodes(evaluation)
    for name, node in config["callbacks"].items():
        _check_samplers(f"callbacks.{name}", node)


def check_plan(config: Config) -> None:
    """Check the configuration of `denoiselab.plan`, whose data need not be there."""
    check_nodes(
        {name: node for name, node in config.items() if name not in ("data", "evaluation", "callbacks", "logger")}
    )
    check_shape(config["data"])


def check_sample(config: Config) -> None:
    """Check the configuration of `sample.py`."""
    if config.get("import") is None:
        if config["ckpt"] == "???":
            raise BadInput("ckpt: is not given; pass ckpt=<run directory or file>, or import=<source> import.path=...")
        parse(SampleSettings, config)
    check_nodes(config)
    _check_samplers("task", config["task"])
    if config.get("import") is None:
        for path in config["ckpt"] if isinstance(config["ckpt"], list) else [config["ckpt"]]:
            if not glob.has_magic(path) and not released.place(Path(path), "ckpt").exists():
                raise BadInput(f"ckpt={path}: no such run directory or checkpoint file.")
    if config.get("out") is not None and not class_attribute(config["task"]["_target_"], "goes_on", default=False):
        check_new(Path(config["out"]))


def _check_samplers(option: str, node: Any) -> None:
    """Check the names of samplers that a part of this package lists."""
    if isinstance(node, Mapping) and str(node.get("_target_")).startswith("denoiselab."):
        choices.sampler_nodes(node.get("samplers") or [], f"{option}.samplers")


def check_new(out: Path) -> None:
    """Refuse a folder or file to write that exists.

    Raises:
        BadInput: If it does.
    """
    if out.exists():
        raise BadInput(f"out={out}: exists already; nothing is written over, so name another one with out=...")


def check_conditioner(config: Config) -> None:
    """Refuse a conditioner that sets an option which the network does not have."""
    network = signatures.read(str(config["network"].get("_target_")))
    unknown = [name for name in config["network"] if network and name not in (*options.SPECIAL, *network.parameters)]
    if network is None or network.more or not unknown:
        return
    sets = getattr(resolve(config["conditioner"].get("_target_"), "conditioner"), "network_options", {})
    for option in unknown:
        if option in sets:
            raise BadInput(
                f"conditioner: {network.name} takes no {sets[option]}; choose another network, or conditioner=none."
            )


def check_root(data: Mapping[str, Any]) -> None:
    """Refuse data without their `root`, in a sentence that says what it is and where its files are."""
    target = str(data.get("_target_"))
    signature = signatures.read(target)
    if data.get("root") != "???" or signature is None or "root" not in signature.parameters:
        return
    needs, where = (class_attribute(target, name, default="") for name in ("needs", "where"))
    what = f"a folder that contains {needs}." if needs else signature.parameters["root"].doc
    if "download" in signature.parameters and "data.download" not in where:
        where = f"{where} data.download=true downloads them."
    raise not_given("data.root", f"{what} {where}".strip())


def check_shape(data: Mapping[str, Any]) -> None:
    """Refuse images whose channels come last."""
    match data.get("shape"):
        case [int(height), int(width), 1 | 3 as channels] if height > 4:
            shape = f"data.shape=[{height},{width},{channels}]"
            raise BadInput(f"{shape}: channels come first; write data.shape=[{channels},{height},{width}].")
