"""What the configurations of others must say for a network of ours to equal theirs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from denoiselab.interop.reading.states import InteropError
from denoiselab.interop.reading.unet_names import Part

# More layers of a kind than any network has.
_MOST = 1000


def require(config: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a configuration with values that ours have no counterpart of.

    Args:
        config: Theirs.
        allowed: For each option, the values that will do, that of an absent option first.

    Raises:
        InteropError: Names the option.
    """
    for option, values in allowed.items():
        given = config.get(option, values[0])
        if not any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in values):
            raise InteropError(f"{option}={given}: it must be {' or '.join(map(str, values))} to have a counterpart.")


def count(option: str, value: Any, most: int = _MOST) -> int:
    """A number of layers, each of which is made, or of classes and the like.

    Raises:
        InteropError: It is none, or more than `most`.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise InteropError(f"{option}={value}: it must be a whole number from 1 to {most}.")
    return value


def positive(config: Mapping[str, Any], option: str, default: float | None = None) -> float:
    """A number greater than 0; `default` where the configuration may leave it out.

    Raises:
        InteropError: It is none.
    """
    value = float(config[option] if default is None else config.get(option, default))
    if not 0 < value < math.inf:
        raise InteropError(f"{option}={value}: it must be positive and finite.")
    return value


def completed(module: type[nn.Module], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a module of ours, those left out included."""
    parameters = inspect.signature(module).parameters
    return {name: options.get(name, parameter.default) for name, parameter in parameters.items()}


def per_level(option: str, value: Any, levels: int) -> list[int]:
    """One number a level from one number or a list of them.

    Raises:
        InteropError: It is neither.
    """
    values = [value] * levels if isinstance(value, int) else value
    if not isinstance(values, list | tuple) or len(values) != levels or not all(isinstance(v, int) for v in values):
        raise InteropError(f"{option}={value}: it must be a whole number, or {levels} of them.")
    return list(values)


def image_shape(config: Mapping[str, Any], channels: int) -> list[int]:
    """Shape (C, H, W) from `sample_size`.

    Raises:
        InteropError: It is not stated, or is no size.
    """
    size = config.get("sample_size")
    if size is None:
        raise InteropError("sample_size=null: the size of the images must be stated.")
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise InteropError(f"sample_size={size}: it must be a whole number, or two of them.")
    return [channels, *sides]


def sample_size(shape: Sequence[int]) -> int | list[int]:
    """The `sample_size` of a shape (C, H, W)."""
    return shape[1] if shape[1] == shape[2] else [*shape[1:]]


def multiples(widths: Sequence[int]) -> list[int]:
    """The channels of each level as multiples of the first's.

    Raises:
        InteropError: They are none.
    """
    if not widths or any(width % widths[0] for width in widths):
        raise InteropError(f"block_out_channels={list(widths)}: each must be a multiple of the first.")
    return [width // widths[0] for width in widths]


def block_name(part: Part, last: int) -> str:
    """The name of a layer of a UNet in diffusers, whose last level is `last`."""
    sides = {"down": f"down_blocks.{part.level}", "middle": "mid_block", "up": f"up_blocks.{last - part.level}"}
    kinds = {"residual": "resnets", "attention": "attentions", "down": "downsamplers", "up": "upsamplers"}
    return f"{sides[part.side]}.{kinds[part.kind]}.{part.number}"


def attention_levels(
    down: Sequence[str], up: Sequence[str], kinds: Sequence[tuple[str, str]], levels: int
) -> list[int]:
    """The levels with attention, from the types of blocks.

    Args:
        down: On the way down.
        up: On the way up.
        kinds: The types without and with attention, on the way down and on the way up.
        levels: Their number.

    Raises:
        InteropError: There are others, or those on the way up do not mirror those on the way down.
    """
    for option, blocks, known in zip(("down_block_types", "up_block_types"), (down, up), kinds, strict=True):
        if unknown := sorted(set(blocks) - set(known)):
            raise InteropError(f"{option}: {unknown[0]} has no counterpart here; known: {', '.join(known)}.")
    found = [level for level, kind in enumerate(down) if kind == kinds[0][1]]
    mirrored = [level for level, kind in enumerate(reversed(up)) if kind == kinds[1][1]]
    if len(down) != levels or len(up) != levels or found != mirrored:
        raise InteropError("up_block_types: they must mirror down_block_types, one for each of block_out_channels.")
    return found
