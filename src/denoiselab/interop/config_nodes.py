"""Configuration nodes in plain containers: a `_target_` and its constructor's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Node = dict[str, Any]


def plain(value: Any) -> Any:
    """Nested containers as dictionaries and lists, arrays as lists or numbers, dtypes as their names."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, torch.dtype):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def node(name: str, *, partial: bool = False, **options: Any) -> Node:
    """The configuration of a class or function; `partial` for a function that takes more arguments later."""
    return {"_target_": name, **({"_partial_": True} if partial else {}), **options}


def betas(kind: str, **options: Any) -> Node:
    """A table of `denoiselab.schedules.betas`."""
    return node(f"denoiselab.schedules.betas.{kind}", **options)


def chain(table: Node, *, zero_terminal_snr: bool = False) -> Node:
    """The discrete schedule of a table of betas."""
    return node("denoiselab.schedules.DiscreteVP", betas=table, zero_terminal_snr=zero_terminal_snr)


def parameterization(name: str, **options: Any) -> Node:
    """A function of `denoiselab.parameterizations`."""
    return node(f"denoiselab.parameterizations.{name}", partial=True, **options)


def denoiser(time_label: Node, variance: str | None = None, input_scale: Node | None = None) -> Node:
    """The denoiser of a network; `variance` is a class of `denoiselab.variances`."""
    learned = None if variance is None else node(f"denoiselab.variances.{variance}")
    return node("denoiselab.denoiser.Denoiser", time_label=time_label, input_scale=input_scale, variance=learned)


def step_index(**options: Any) -> Node:
    """The time label of a discrete schedule."""
    return node("denoiselab.denoiser.StepIndex", **options)


def conditioner(num_classes: int | None, **options: Any) -> Node:
    """Class labels with these options; unconditional without classes."""
    if num_classes is None:
        return node("denoiselab.conditioners.Unconditional")
    return node("denoiselab.conditioners.ClassLabel", num_classes=num_classes, **options)


def combined(parts: Mapping[str, Node]) -> Node:
    """The conditioner of several parts by name: unconditional without one, that one alone, or `Combined`."""
    if len(parts) < 2:
        return next(iter(parts.values()), node("denoiselab.conditioners.Unconditional"))
    return node("denoiselab.conditioners.Combined", parts=dict(parts))


def inpainting(shape: Sequence[int], **options: Any) -> Node:
    """The mask and the masked image of images of a shape (C, H, W); by default as Stable Diffusion's."""
    return node("denoiselab.conditioners.Inpainting", shape=list(shape), **options)
