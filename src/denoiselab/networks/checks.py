"""What constructors of networks refuse, in the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

# Levels of a network: their numbers from 0, or all that there are.
Levels = Sequence[int] | Literal["all"]


def check_image(network: str, shape: Sequence[int], stride: int, why: str) -> None:
    """Refuse a shape that is not an image's, or that a stride does not divide.

    Args:
        network: Name of the class, for messages.
        shape: Shape (C, H, W) of a sample.
        stride: What must divide H and W.
        why: What makes that stride.

    Raises:
        ValueError: It is such a shape.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={list(shape)}: {network} takes images (C, H, W); choose network=mlp for points.")
    if shape[1] % stride or shape[2] % stride:
        raise ValueError(f"{why} make a stride of {stride}, which does not divide images of {shape[1]}x{shape[2]}.")


def check_sizes(sizes: Mapping[str, int | None]) -> None:
    """Refuse sizes below 1; None is no size.

    Raises:
        ValueError: One is.
    """
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: it must be at least 1.")


def check_positive(numbers: Mapping[str, float | None]) -> None:
    """Refuse numbers that are not above 0; None is no number.

    Raises:
        ValueError: One is.
    """
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: it must be positive.")


def hidden_features(width: int, mlp_ratio: float) -> int:
    """Features of the hidden layer of a feed-forward part.

    Raises:
        ValueError: There are none.
    """
    if not 1 / width <= mlp_ratio < math.inf:
        raise ValueError(f"mlp_ratio={mlp_ratio}: it must leave at least one hidden feature of {width}.")
    return int(width * mlp_ratio)


def check_multipliers(multipliers: Sequence[float]) -> None:
    """Refuse an empty list of multipliers of channels, and multipliers that leave none.

    Raises:
        ValueError: It is such a list.
    """
    if not multipliers:
        raise ValueError("multipliers=[]: there must be at least one level.")
    for index, value in enumerate(multipliers):
        if value <= 0:
            raise ValueError(f"multipliers[{index}]={value}: it must be positive.")


def level_widths(channels: int, multipliers: Sequence[float], groups: int) -> list[int]:
    """Channels of each level, multiples of `channels` that group norms of so many groups can share.

    Raises:
        ValueError: They cannot.
    """
    check_multipliers(multipliers)
    widths = [int(channels * multiplier) for multiplier in multipliers]
    if any(width < 1 or width % groups for width in widths):
        raise ValueError(
            f"groups={groups} must divide the channels of each level: channels={channels} and "
            f"multipliers={list(multipliers)} make {widths}."
        )
    return widths


def check_levels(count: int, **levels: Sequence[int]) -> None:
    """Refuse levels that a network does not have.

    Raises:
        ValueError: It has no such level.
    """
    for name, value in levels.items():
        if not set(value) <= set(range(count)):
            raise ValueError(f"{name}={list(value)}: the network has levels 0 to {count - 1}.")


def checkpointed_levels(count: int, levels: Levels) -> frozenset[int]:
    """Numbers of the levels, of `count`, whose activations are computed again in the backward pass.

    Raises:
        ValueError: The network has no such level.
    """
    if isinstance(levels, str):
        if levels != "all":
            raise ValueError(f"checkpoint_levels={levels}: it must be a list of levels, or all.")
        return frozenset(range(count))
    check_levels(count, checkpoint_levels=levels)
    return frozenset(levels)


def check_dropout(dropout: float, option: str = "dropout") -> None:
    """Refuse what is no probability below 1.

    Raises:
        ValueError: It is not.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"{option}={dropout}: it must be at least 0 and less than 1.")
