"""Configuration to the objects of a run; each shared object is built once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from denoiselab.app import overrides
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput, closest
from denoiselab.conditioners.label import Conditioner
from denoiselab.denoiser import Denoiser
from denoiselab.samplers import Sampler

Config = Mapping[str, Any]

# The parts of a configuration that a model is made of.
MODEL_PARTS = ("network", "schedule", "parameterization", "denoiser", "conditioner")


@dataclass(frozen=True)
class Model:
    """A denoiser, the conditioning it takes, and the shape of a sample."""

    denoiser: Denoiser
    conditioner: Conditioner
    shape: tuple[int, ...]


def build_model(config: Config) -> Model:
    """The untrained model of a checked configuration; its weights are a function of `seed`.

    Raises:
        BadInput: Parts do not fit together.
    """
    conditioner: Conditioner = construct(config["conditioner"], "conditioner")
    schedule = construct(config["schedule"], "schedule")
    parameterization = construct(config["parameterization"], "parameterization")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        network: nn.Module = construct(config["network"], "network")
    network.to(memory_format=torch.channels_last)
    takes: frozenset[str] = getattr(network, "conditioning", frozenset())
    if conditioner.names != takes:
        raise BadInput(
            f"conditioner: it gives {_names(conditioner.names)}, but network takes {_names(takes)}; "
            "choose conditioner=label for class labels (it sets network.num_classes), else conditioner=none."
        )
    denoiser = construct(
        config["denoiser"], "denoiser", network=network, schedule=schedule, parameterization=parameterization
    )
    return Model(denoiser, conditioner, tuple(config["data"]["shape"]))


def build_samplers(nodes: Mapping[str, Any]) -> dict[str, Sampler]:
    """Name to sampler."""
    return {name: construct(node, f"sampler {name}") for name, node in nodes.items()}


def sampler_nodes(names: list[str]) -> dict[str, Any]:
    """Name to configuration, for names of `conf/sampler`.

    Raises:
        BadInput: A name is unknown or stands twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"evaluation.samplers={names}: '{name}' stands there more than once.")
    nodes = {name: overrides.choice("sampler", name) for name in names}
    check(nodes)
    return nodes


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


def _names(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
