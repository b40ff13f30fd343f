"""A model of others as one of ours: what every source of imports returns."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import State


@dataclass(frozen=True)
class Imported:
    """A network with its weights, and what its output means.

    Nodes are as in `denoiselab.interop.config_nodes`.

    Args:
        name: What to call it: letters, digits, `.`, `-` and `_`.
        layout: Of the network.
        weights: Its state, in our names.
        schedule: Node of the schedule that it was trained on.
        parameterization: Node of what its output means.
        denoiser: Node of how it is told the level, and of its variance.
        conditioner: Node of the conditioning it takes.
        averages: Moving averages of the weights by name, in our names, of the same shapes.
        codec: Node of the autoencoder between pixels and what the network sees; None for pixels.
        shape: Of a sample, in pixels; None for what the network sees.
        files: What was read.
        sampling: Options of `sample.py` with which it is sampled as where it comes from, where they are known.
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

    def config(self) -> Node:
        """The model's configuration: the parts that a run directory's has too."""
        network = {"_target_": target(self.layout.module), **_plain(self.layout.options)}
        config = {
            "name": self.name,
            "seed": 0,
            "data": {"name": self.name, "shape": _plain(self.shape or network["shape"])},
            "network": network,
            "schedule": self.schedule,
            "parameterization": self.parameterization,
            "denoiser": self.denoiser,
            "conditioner": self.conditioner,
        }
        return config if self.codec is None else {**config, "codec": self.codec}

    def digest(self, config: Node | None = None) -> str:
        """SHA-256 of a configuration, its own by default, and names, types, shapes and numbers of the weights."""
        total = hashlib.sha256(json.dumps(config or self.config(), sort_keys=True).encode())
        for which, state in (("", self.weights), *sorted(self.averages.items())):
            for name, tensor in sorted(state.items()):
                total.update(json.dumps([which, name, str(tensor.dtype), list(tensor.shape)]).encode())
                total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


class Source(Protocol):
    """Reads a model of others."""

    def read(self) -> Imported:
        """The whole model, checked.

        Raises:
            InteropError: A file or an option cannot be used; nothing was written.
        """
        ...


def named(path: str, found: Path) -> str:
    """What to call the model at `path`, found in a folder or file: that one's name, or the hub's `owner-name`."""
    here = Path(path).expanduser()
    name = found.resolve().name if found == here else path
    return re.sub(r"[^\w.-]+", "-", name.removesuffix(found.suffix if found.is_file() else "")).strip("-.") or "model"


def target(module: type[nn.Module]) -> str:
    """The name of a class as configurations write it: in the package that exports it."""
    package = module.__module__.rpartition(".")[0]
    exported = getattr(importlib.import_module(package), module.__name__, None) is module
    return f"{package if exported else module.__module__}.{module.__name__}"


def _plain(value: Any) -> Any:
    """Tuples as lists, throughout."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
