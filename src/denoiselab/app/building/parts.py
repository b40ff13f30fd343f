"""Configuration to the objects of a run beside its model; each shared object is built once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from denoiselab.app.config import overrides
from denoiselab.app.config.settings import Evaluation
from denoiselab.data import DataSet
from denoiselab.data.augmentation import Augmentation
from denoiselab.errors import BadInput, closest
from denoiselab.evaluation import Extractor, Given, Metric
from denoiselab.evaluation.references import files
from denoiselab.instantiate import check, construct
from denoiselab.noise import AUGMENTING, Noise
from denoiselab.objectives import Objective
from denoiselab.samplers import Sampler

Config = Mapping[str, Any]

# The grid that stands in a file.
_FROM_FILE = "denoiselab.samplers.listed_spacing.FromFile"


def check_shape(data: Mapping[str, Any]) -> None:
    """Refuse images whose channels come last.

    Raises:
        BadInput: They do.
    """
    match data.get("shape"):
        case [int(height), int(width), 1 | 3 as channels] if height > 4:
            shape = f"data.shape=[{height},{width},{channels}]"
            raise BadInput(f"{shape}: channels come first; write data.shape=[{channels},{height},{width}].")


def build_augmentation(config: Config) -> Augmentation | None:
    """What changes training batches at random, of a checked configuration; it has been tried on images.

    Raises:
        BadInput: It does not fit the data, or the network.
    """
    if config.get("augmentation") is None:
        return None
    augmentation: Augmentation = construct(config["augmentation"], "augmentation")
    shape = config["data"]["shape"]
    if len(shape) != 3:
        raise BadInput(f"augmentation: it is for images, and samples of {config['data']['name']} are of shape {shape}.")
    wanted = config["network"].get("augmentation_features") or 0
    if augmentation.features not in (0, wanted):
        raise BadInput(
            f"network.augmentation_features={wanted}: {type(augmentation).__name__} tells it {augmentation.features} "
            "numbers of how an image was changed; set it to that, with a network that has the option."
        )
    with torch.device("cpu"):
        try:
            augmentation(torch.zeros(2, *shape), Noise(0, torch.arange(2), AUGMENTING))
        except ValueError as error:
            raise BadInput(f"augmentation.{error}") from None
    return augmentation


def build_objective(config: Config) -> Objective:
    """The objective of a checked configuration; its own weights, if any, are a function of `seed`.

    Raises:
        BadInput: It refuses its options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((config["seed"] + 1) % 2**63)
        objective: Objective = construct(config["objective"], "objective")
    return objective


def build_samplers(nodes: Mapping[str, Any]) -> dict[str, Sampler]:
    """Name to sampler."""
    return {name: construct(node, f"sampler {name}") for name, node in nodes.items()}


def sampler_nodes(names: list[str], option: str = "evaluation.samplers") -> dict[str, Any]:
    """Label to configuration, for names of `conf/sampler`, each with a grid behind an @ if not its own.

    The grid is a name of `conf/spacing`, or a JSON file as `grid=...` writes it: `ddim@karras`, `ddim@path/to/it.json`
    (whose label ends in the file's stem).

    Raises:
        BadInput: A name is unknown or stands twice.
    """
    nodes: dict[str, Any] = {}
    for name in names:
        rule, at, grid = name.partition("@")
        label, node = rule, overrides.choice("sampler", rule)
        if at:
            own = grid.endswith(".json")
            spacing = {"_target_": _FROM_FILE, "path": grid} if own else overrides.choice("spacing", grid)
            node = {**node, "spacing": spacing}
            label = f"{rule}@{Path(grid).stem if own else grid}"
        if label in nodes:
            raise BadInput(f"{option}={names}: '{label}' stands there more than once.")
        nodes[label] = node
    check(nodes)
    return nodes


def metric_nodes(evaluation: Evaluation) -> dict[str, Any]:
    """Name to configuration, for names of `conf/metric`, with the options that are set beside them.

    Raises:
        BadInput: A name is unknown or stands twice, or an option is unknown.
    """
    nodes = _nodes("metric", evaluation.metrics)
    for name, options in evaluation.metric_options.items():
        if name not in nodes:
            raise BadInput(
                f"evaluation.metric_options.{name}: it is not one of evaluation.metrics={evaluation.metrics}."
            )
        nodes[name] |= options
        check({f"evaluation.metric_options.{name}": nodes[name]})
    return nodes


def given_reference(evaluation: Evaluation) -> Given | None:
    """The reference that the user names."""
    if evaluation.reference is None:
        return None
    return Given(Path(evaluation.reference), evaluation.reference_n, any_data=evaluation.reference_data == "any")


def build_extractor(
    config: Config,
    evaluation: Evaluation,
    num_samples: int | None,
    train: DataSet | None = None,
    option: str = "evaluation",
) -> Extractor:
    """The maker of the scorer of a checked configuration, which can score `num_samples` of its samples.

    Args:
        config: The configuration.
        evaluation: Its node `evaluation`.
        num_samples: Samples a cell, where they are known.
        train: The training data, where they are loaded.
        option: What the node is called, for messages.

    Raises:
        BadInput: It cannot, or not with the training data, where they are given, or the reference is not of these.
    """
    extractor: Extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    given = given_reference(evaluation)
    try:
        extractor.check(config["data"]["shape"], build_metrics(evaluation), num_samples, given)
        if train is not None:
            extractor.check_data(train)
            if given is not None:
                files.check_data(given, train)
    except ValueError as error:
        raise BadInput(str(error).replace("evaluation.", f"{option}.")) from None
    return extractor


def build_metrics(evaluation: Evaluation) -> dict[str, Metric]:
    """Name to metric.

    Raises:
        BadInput: A name or an option is unknown or out of range.
    """
    nodes = metric_nodes(evaluation)
    return {name: construct(node, f"evaluation.metric_options.{name}") for name, node in nodes.items()}


def profile_name(asked: str | None, names: list[str], option: str) -> str:
    """The EMA profile asked for, or the first one.

    Raises:
        BadInput: There is no such profile.
    """
    if asked is None:
        return names[0]
    if asked not in names:
        raise BadInput(f"{option}={asked}: unknown; {closest(asked, names)}allowed: {', '.join(names)}.")
    return asked


def _nodes(group: str, names: list[str]) -> dict[str, Any]:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"evaluation.{group}s={names}: '{name}' stands there more than once.")
    nodes = {name: overrides.choice(group, name) for name in names}
    check(nodes)
    return nodes
