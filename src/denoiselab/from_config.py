"""A configuration, plain containers, to the model that it describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import nn

from denoiselab.codecs import Codec, FirstStageNetwork, Identity
from denoiselab.conditioners import ClassLabel, Conditioner
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of
from denoiselab.model import Model
from denoiselab.networks import ClassifierNetwork, Conditioning, Network
from denoiselab.networks.conditioning import OPTIONAL, listed
from denoiselab.nodes.instantiate import MODEL, check, check_contract, construct
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Level, Schedule
from denoiselab.trained import ClassifierModel, FirstStage, Trained

Config = Mapping[str, Any]

# The parts of a configuration that a model is made of.
_PARTS = ("codec", "network", "schedule", "parameterization", "denoiser", "conditioner")

# The names in configurations of what stands in a denoiser's place where a classifier is trained.
_CLASSIFIERS = ("denoiselab.guidance.NoisyClassifier", "denoiselab.guidance.classifier.NoisyClassifier")


# The names of objectives whose models take the steps of their training alone.
_DISTILLING = ("denoiselab.objectives.Progressive", "denoiselab.objectives.progressive.Progressive")


def parts(config: Config) -> dict[str, Any]:
    """The nodes of a configuration that a model is made of.

    Raises:
        KeyError: One is missing. Only a codec may be, where there is none, a classifier's parameterization, and all
            that is about noise of a first stage.
    """
    optional = {"codec"}
    if reconstructs(config):
        optional |= {"schedule", "parameterization", "denoiser"}
    elif classifies(config):
        optional |= {"parameterization"}
    return {part: config[part] for part in _PARTS if part not in optional or config.get(part) is not None}


def classifies(config: Config) -> bool:
    """Whether a configuration is that of a classifier."""
    return not reconstructs(config) and config["denoiser"].get("_target_") in _CLASSIFIERS


def reconstructs(config: Config) -> bool:
    """Whether a configuration is that of a first stage: it has no denoiser."""
    return config.get("denoiser") is None


def build_model(config: Config) -> Model:
    """As `build`, of a configuration of a model that draws samples."""
    model = build(config)
    assert isinstance(model, Model)
    return model


def build(config: Config) -> Trained:
    """The untrained model of a checked configuration; its weights are a function of `seed`.

    Raises:
        BadInput: If parts do not fit together.
    """
    codec: Codec = construct(config["codec"], "codec") if "codec" in config else Identity(config["data"]["shape"])
    check_contract("codec", codec, Codec)
    shape = config["network"].get("shape", codec.latent_shape)
    if tuple(shape) != tuple(codec.latent_shape):
        raise BadInput(f"network.shape={list(shape)}: it must be {list(codec.latent_shape)}, as codec and data are.")
    with torch.random.fork_rng(devices=[]):  # the objective's weights are of seed + 1
        torch.manual_seed((config["seed"] + 2) % 2**63)
        conditioner: Conditioner = construct(config["conditioner"], "conditioner")
    check_contract("conditioner", conditioner, Conditioner)
    conditioner.set_codec(codec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        network: nn.Module = construct(config["network"], "network")
        if reconstructs(config):
            return _first_stage(config, network, conditioner, codec)
        with torch.device("cpu"):  # a rehearsal has no numbers, but a schedule's are checked
            schedule = construct(config["schedule"], "schedule")
    check_contract("network", network, nn.Module)
    check_contract("network", network, ClassifierNetwork if classifies(config) else Network)
    check_contract("schedule", schedule, Schedule)
    network.to(memory_format=torch.channels_last)
    if classifies(config):
        return _classifier(config, network, schedule, conditioner, codec)
    _check_conditions(network, conditioner)
    if config.get("parameterization") is None:
        raise BadInput("parameterization: is missing from the configuration.")
    parameterization = construct(config["parameterization"], "parameterization")
    check_contract("parameterization", parameterization, Parameterization)
    denoiser = construct(
        config["denoiser"], "denoiser", network=network, schedule=schedule, parameterization=parameterization
    )
    if conditioner.module is not None:  # then it is trained, averaged, saved and moved with the denoiser
        denoiser.add_module("conditioner", conditioner.module)
    return Model(denoiser, conditioner, codec, _own_grid(config, schedule))


def _own_grid(config: Config, schedule: Schedule) -> list[Level] | None:
    """The levels of the steps for which a configuration distils a model; None where it does not."""
    node = config.get("objective") or {}
    if node.get("_target_") not in _DISTILLING:
        return None
    check({"objective": {"spacing": node["spacing"]}}, MODEL)
    with torch.device("cpu"):
        try:
            levels: list[Level] = construct(node["spacing"], "objective.spacing")(schedule, node["steps"])
        except (ValueError, TypeError) as error:
            raise BadInput(f"objective.spacing: {error}") from None
    return levels


def _first_stage(config: Config, network: nn.Module, conditioner: Conditioner, codec: Codec) -> FirstStage:
    """An autoencoder of images."""
    check_contract("network", network, nn.Module)
    if not hasattr(network, "train_pass"):
        raise BadInput(
            f"network={type(network).__name__}: it is no autoencoder, and without a denoiser one is trained; choose "
            "one of the group autoencoder, as experiment=autoencoder_kl_digits does, or give denoiser=default."
        )
    check_contract("network", network, FirstStageNetwork)
    if conditioner.names or not isinstance(codec, Identity):
        raise BadInput("network: a first stage learns from images alone; choose codec=none and conditioner=none.")
    return FirstStage(network.to(memory_format=torch.channels_last), conditioner, codec)


def _classifier(
    config: Config, network: nn.Module, schedule: Schedule, conditioner: Conditioner, codec: Codec
) -> ClassifierModel:
    """A classifier of the classes that a conditioner gives."""
    if not isinstance(conditioner, ClassLabel) or conditioner.dropout or conditioner.null_class:
        raise BadInput(
            "conditioner: a classifier learns the class of each sample; choose conditioner=label with "
            "conditioner.dropout=0 and conditioner.null_class=false."
        )
    classifier = construct(
        config["denoiser"], "denoiser", network=network, schedule=schedule, num_classes=conditioner.num_classes,
        shape=codec.latent_shape,
    )  # fmt: skip
    return ClassifierModel(classifier, conditioner, codec)


def _check_conditions(network: nn.Module, conditioner: Conditioner) -> None:
    """Refuse a network and a conditioner that do not go together."""
    takes: frozenset[str] = getattr(network, "conditioning", frozenset())
    if not isinstance(takes, Set) or not takes <= set(Conditioning._fields):
        raise BadInput(
            f"network={type(network).__name__}: its attribute conditioning must be a frozen set of names among "
            f"{listed(Conditioning._fields)}; found {takes!r}."
        )
    if not takes - OPTIONAL <= conditioner.names <= takes:
        raise BadInput(
            f"conditioner: it gives {listed(conditioner.names)}, but network takes {listed(takes)}; "
            "choose the conditioner=... that gives these (it sets what the network takes), else conditioner=none."
        )


def with_hashes(node: Any) -> Any:
    """A node with the sha256 of each file or folder instead of its `path`: what is in there counts, not where it is.

    Of a `store` only counts that there is one.
    """
    if not isinstance(node, dict):
        return node
    out = {key: with_hashes(value) for key, value in node.items()}
    if isinstance(node.get("store"), str):
        out["store"] = True
    if isinstance(path := node.get("path"), str):
        if node.get("sha256") is not None:
            del out["path"]
        elif Path(path).is_file():
            out["path"] = {"sha256": sha256_of(Path(path))}
        elif Path(path).is_dir():
            from denoiselab.frozen import folders

            out["path"] = {"sha256": folders.sha256_of(Path(path))}
    return out


def identity(config: Config) -> str:
    """sha256 of all that a model's samples depend on beside its weights: its parts, and the files that they name.

    Raises:
        KeyError: If a part is missing.
    """
    nodes = with_hashes(parts(config))
    return hashlib.sha256(json.dumps(nodes, sort_keys=True).encode()).hexdigest()
