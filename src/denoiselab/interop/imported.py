"""An imported model: what every reader of another code base returns."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node, plain
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import State


@dataclass(frozen=True)
class Imported:
    """A network with its weights, and the meaning of its output.

    Nodes are as in `denoiselab.interop.config_nodes`.

    Args:
        name: Of the model: letters, digits, `.`, `-` and `_`.
        layout: Of the network.
        weights: Its state, in our names.
        schedule: Node of the schedule of its training.
        parameterization: Node of the meaning of its output.
        denoiser: Node of its time label, input scale and variance.
        conditioner: Node of its conditioning.
        averages: Moving averages of the weights by name, in our names, of the same shapes.
        codec: Node of the autoencoder of a latent model; None for pixels.
        shape: Of a sample, in pixels; None if it is that of the network.
        files: That were read.
        sampling: Options of `sample.py` that sample as the original does, if known.
        frozen: Of the parts that are in the file itself, such as the codec: the place of its node in `config()` to what
            writes it to a folder, which is the node's `path`.
    """

    name: str
    layout: Layout
    weights: State
    schedule: Node
    parameterization: Node
    denoiser: Node
    conditioner: Node = field(default_factory=lambda: config_nodes.conditioner(None))
    averages: Mapping[str, State] = field(default_factory=dict)
    codec: Node | None = None
    shape: Sequence[int] | None = None
    files: Sequence[Path] = ()
    sampling: Sequence[str] = ()
    frozen: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    def placed(self, folder: Path) -> Node:
        """`config()`, with the `frozen` parts written below an existing folder."""
        config = copy.deepcopy(self.config())
        for place, write in self.frozen.items():
            part: Node = config
            for key in place.split("."):
                part = part[key]
            part["path"] = str(folder / place)
            (folder / place).mkdir()
            write(folder / place)
        return config

    def config(self) -> Node:
        """The model's part of the configuration of a run directory."""
        network = {"_target_": target(self.layout.module), **plain(self.layout.options)}
        config = {
            "name": self.name,
            "seed": 0,
            "data": {"name": self.name, "shape": plain(self.shape or network["shape"])},
            "network": network,
            "schedule": self.schedule,
            "parameterization": self.parameterization,
            "denoiser": self.denoiser,
            "conditioner": self.conditioner,
        }
        return config if self.codec is None else {**config, "codec": self.codec}

    def digest(self, config: Node | None = None) -> str:
        """SHA-256 of a configuration (by default `config()`) and of names, dtypes, shapes and values of the weights."""
        total = hashlib.sha256(json.dumps(config or self.config(), sort_keys=True).encode())
        for which, state in (("", self.weights), *sorted(self.averages.items())):
            for name, tensor in sorted(state.items()):
                total.update(json.dumps([which, name, str(tensor.dtype), list(tensor.shape)]).encode())
                total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


class Source(Protocol):
    """A reader of another code base's models."""

    def read(self) -> Imported:
        """Read and check the whole model.

        Raises:
            InteropError: If a file cannot be read, holds another network, or is not supported.
        """


def named(path: str, found: Path) -> str:
    """The name of the model at `path`, which was found at `found`: that of the file or folder, or `owner-name`."""
    here = Path(path).expanduser()
    name = found.resolve().name if found == here else path
    return re.sub(r"[^\w.-]+", "-", name.removesuffix(found.suffix if found.is_file() else "")).strip("-.") or "model"


def target(module: type[nn.Module]) -> str:
    """The `_target_` of a class: in the package that exports it."""
    package = module.__module__.rpartition(".")[0]
    exported = getattr(importlib.import_module(package), module.__name__, None) is module
    return f"{package if exported else module.__module__}.{module.__name__}"
