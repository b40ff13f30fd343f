"""Checks of the options of networks: each raises a ValueError that names the option, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

# Levels of a network, counted from 0.
Levels = Sequence[int] | Literal["all"]


def check_image(network: str, shape: Sequence[int], stride: int, why: str) -> None:
    """Check that a shape is an image's and divisible by a stride.

    Args:
        network: Name of the class, for messages.
        shape: Shape (C, H, W) of a sample.
        stride: Must divide H and W.
        why: The options that make the stride, for messages.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={list(shape)}: {network} takes images (C, H, W); choose network=mlp for points.")
    if shape[1] % stride or shape[2] % stride:
        raise ValueError(f"{why} make a stride of {stride}, which does not divide images of {shape[1]}x{shape[2]}.")


def check_sizes(sizes: Mapping[str, int | None]) -> None:
    """Check that sizes are at least 1; None passes."""
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: it must be at least 1.")


def check_positive(numbers: Mapping[str, float | None]) -> None:
    """Check that numbers are positive and finite; None passes."""
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: it must be positive.")


def hidden_features(width: int, mlp_ratio: float) -> int:
    """Features of the hidden layer of a feed-forward network; there must be at least one."""
    if not 1 / width <= mlp_ratio < math.inf:
        raise ValueError(f"mlp_ratio={mlp_ratio}: it must leave at least one hidden feature of {width}.")
    return int(width * mlp_ratio)


def check_multipliers(multipliers: Sequence[float]) -> None:
    """Check that there are multipliers of channels and that they are positive."""
    if not multipliers:
        raise ValueError("multipliers=[]: there must be at least one level.")
    for index, value in enumerate(multipliers):
        if value <= 0:
            raise ValueError(f"multipliers[{index}]={value}: it must be positive.")


def level_widths(channels: int, multipliers: Sequence[float], groups: int) -> list[int]:
    """Channels of each level, `channels` times its multiplier; `groups` must divide them."""
    check_multipliers(multipliers)
    widths = [int(channels * multiplier) for multiplier in multipliers]
    if any(width < 1 or width % groups for width in widths):
        raise ValueError(
            f"groups={groups} must divide the channels of each level: channels={channels} and "
            f"multipliers={list(multipliers)} make {widths}."
        )
    return widths


def check_levels(count: int, **levels: Sequence[int]) -> None:
    """Check that levels are from 0 to `count` - 1."""
    for name, value in levels.items():
        if not set(value) <= set(range(count)):
            raise ValueError(f"{name}={list(value)}: the network has levels 0 to {count - 1}.")


def checkpointed_levels(count: int, levels: Levels) -> frozenset[int]:
    """The levels, from 0 to `count` - 1, whose activations are computed again in the backward pass."""
    if isinstance(levels, str):
        if levels != "all":
            raise ValueError(f"checkpoint_levels={levels}: it must be a list of levels, or all.")
        return frozenset(range(count))
    check_levels(count, checkpoint_levels=levels)
    return frozenset(levels)


def check_dropout(dropout: float, option: str = "dropout") -> None:
    """Check that a probability is at least 0 and less than 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{option}={dropout}: it must be at least 0 and less than 1.")


def check_levelled(
    network: str, shape: Sequence[int], multipliers: Sequence[float], attention_levels: Sequence[int], dropout: float
) -> None:
    """Check the options of a UNet of images whose resolution halves between levels."""
    check_multipliers(multipliers)
    check_image(network, shape, 2 ** (len(multipliers) - 1), f"multipliers={list(multipliers)}")
    check_levels(len(multipliers), attention_levels=attention_levels)
    check_dropout(dropout)
