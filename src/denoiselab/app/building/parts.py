"""Configuration to the objects of a run besides its model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from denoiselab.app.config import choices
from denoiselab.app.config.settings import Evaluation
from denoiselab.choices import folder
from denoiselab.codecs import ReconstructionLoss
from denoiselab.data import DataSet
from denoiselab.data.augmentation import Augmentation
from denoiselab.errors import BadInput, closest
from denoiselab.evaluation import Extractor, Given, Metric
from denoiselab.evaluation.references import given as given_files
from denoiselab.evaluation.verdicts.published import Paper, read_paper
from denoiselab.from_config import reconstructs
from denoiselab.nodes.instantiate import check, check_contract, construct
from denoiselab.noise import AUGMENTING, Noise
from denoiselab.objectives import Objective
from denoiselab.samplers import Sampler
from denoiselab.training.ema import EMA, Profile
from denoiselab.training.snapshots import Snapshots

Config = Mapping[str, Any]


def build_augmentation(config: Config) -> Augmentation | None:
    """The random augmentation of training batches, tried on blank images; None if there is none."""
    if config.get("augmentation") is None:
        return None
    augmentation: Augmentation = construct(config["augmentation"], "augmentation")
    shape = config["data"]["shape"]
    if len(shape) != 3:
        raise BadInput(f"augmentation: it is for images; samples of {config['data']['name']} have shape {shape}.")
    wanted = config["network"].get("augmentation_features") or 0
    if augmentation.features not in (0, wanted):
        raise BadInput(
            f"network.augmentation_features={wanted}: {type(augmentation).__name__} passes {augmentation.features} "
            f"numbers to the network; choose a network with this option, and set it to {augmentation.features}."
        )
    with torch.device("cpu"):
        try:
            augmentation(torch.zeros(2, *shape), Noise(0, torch.arange(2), AUGMENTING))
        except ValueError as error:
            raise BadInput(f"augmentation.{error}") from None
    return augmentation


def build_optimizer(node: Config, parameters: Sequence[torch.nn.Parameter] = ()) -> Any:
    """The maker of an optimizer, tried on parameters; without any, only its options are checked.

    Raises:
        BadInput: If a value is refused; the message names its option.
    """
    maker = construct(node, "optimizer")
    try:
        maker([*parameters])  # it checks its options only when it is built
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        if parameters or "empty parameter list" not in text:
            raise BadInput(_refused(node, text)) from None
    return maker


def _refused(node: Config, text: str) -> str:
    """A message of an optimizer, such as "Invalid beta parameter at index 1: 2.0", with the option that it is about."""
    number = (re.findall(r"(?<![\w.])-?\d[\d.e+-]*", text) or [""])[-1]
    values = {name: value if isinstance(value, list) else [value] for name, value in node.items()}
    named = [f"optimizer.{name}={node[name]}" for name in values if number in map(str, values[name])]
    allowed = "; it must be at least 0" if number.startswith("-") else ""
    return f"{' '.join(named) or 'optimizer'}: {text[:1].lower()}{text[1:]}{allowed}."


def build_ema(config: Config, folder: Path | None = None) -> EMA:
    """The moving averages of a checked configuration.

    Args:
        config: The configuration.
        folder: Of their snapshots; None to check the options only.

    Raises:
        BadInput: If an option is refused.
    """
    node = config["ema"]
    profiles: dict[str, Profile] = construct(node["profiles"], "ema.profiles")
    for name, profile in profiles.items():
        check_contract(f"ema.profiles.{name}", profile, Profile)
    snapshots: Snapshots | None = construct(node.get("snapshots"), "ema.snapshots")
    try:
        return EMA(profiles, snapshots, folder)
    except ValueError as error:
        raise BadInput(str(error)) from None


def build_objective(config: Config) -> Objective | ReconstructionLoss:
    """The objective of a checked configuration; its own weights, if any, are a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((config["seed"] + 1) % 2**63)
        objective: Any = construct(config["objective"], "objective")
    if isinstance(objective, ReconstructionLoss) != reconstructs(config):
        raise BadInput(
            f"objective={type(objective).__name__}: "
            + (
                "it does not train a first stage, which a run without a denoiser trains; choose "
                "reconstruction@objective=kl or vq, or give denoiser=default."
                if reconstructs(config)
                else "it trains a first stage, and this run trains a denoiser; choose one of conf/objective, or "
                "experiment=autoencoder_kl_digits or its like."
            )
        )
    check_contract("objective", objective, ReconstructionLoss if reconstructs(config) else Objective)
    made: Objective | ReconstructionLoss = objective
    return made


def build_samplers(nodes: Mapping[str, Any]) -> dict[str, Sampler]:
    """Name to sampler."""
    return {name: construct(node, f"sampler {name}") for name, node in nodes.items()}


def sampler_nodes(entries: Sequence[str | Mapping[str, Any]], option: str = "evaluation.samplers") -> dict[str, Any]:
    """The checked nodes of `choices.sampler_nodes`."""
    nodes = choices.sampler_nodes(entries, option)
    check(nodes)
    return nodes


def guider_nodes(entries: Sequence[str | Mapping[str, Any]], option: str) -> list[dict[str, Any]]:
    """The checked nodes of `choices.guider_nodes`."""
    nodes = choices.guider_nodes(entries, option)
    check({option: nodes})
    return nodes


def metric_nodes(evaluation: Evaluation) -> dict[str, Any]:
    """The checked nodes of `choices.metric_nodes`."""
    nodes = choices.metric_nodes(evaluation)
    check({"evaluation": {"metric_options": nodes}})
    return nodes


def published_values(evaluation: Config, option: str = "evaluation") -> tuple[Paper, dict[str, str]] | None:
    """The paper that an evaluation is compared with, and the curve of each sampler's label; None without a paper."""
    name, place = evaluation.get("published"), folder() / "published"
    if name is None:
        return None
    allowed = sorted(path.stem for path in place.glob("*.yaml"))
    if name not in allowed:
        raise BadInput(f"{option}.published={name}: unknown; {closest(name, allowed)}allowed: {', '.join(allowed)}.")
    paper, named = read_paper(place / f"{name}.yaml"), choices.curves_of(evaluation["samplers"])
    known = list(dict.fromkeys(curve.name for table in paper.tables for curve in table.curves))
    for label, curve in named.items():
        if curve not in known:
            near = closest(curve, known)
            raise BadInput(
                f"{option}.samplers: {label}: curve={curve}: not in {name}; {near}allowed: {', '.join(known)}."
            )
    return paper, named


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
    """The extractor of a checked configuration, able to score `num_samples` a cell, if known, against `train`."""
    extractor: Extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    check_contract("evaluation.extractor", extractor, Extractor)
    given = given_reference(evaluation)
    try:
        extractor.check(config["data"]["shape"], build_metrics(evaluation), num_samples, given)
        if train is not None:
            extractor.check_data(train)
            if given is not None:
                given_files.check_data(given, train)
    except ValueError as error:
        raise BadInput(str(error).replace("evaluation.", f"{option}.")) from None
    return extractor


def build_metrics(evaluation: Evaluation) -> dict[str, Metric]:
    """Name to metric."""
    nodes = metric_nodes(evaluation)
    metrics = {name: construct(node, f"evaluation.metric_options.{name}") for name, node in nodes.items()}
    for name, metric in metrics.items():
        check_contract(f"evaluation.metrics.{name}", metric, Metric)
    return metrics
