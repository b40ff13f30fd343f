"""Values that the configurations of several diffusers models share, and the names of their UNet blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import Part


def require(config: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> None:
    """Check that options have values that our networks support; the first of `allowed` is an absent option's value."""
    for option, values in allowed.items():
        given = config.get(option, values[0])
        if not any(given == value and isinstance(given, bool) == isinstance(value, bool) for value in values):
            raise InteropError(
                f"{option}={given}: it must be {' or '.join(map(str, values))}; others are not supported."
            )


def per_level(option: str, value: Any, levels: int) -> list[int]:
    """One number per level, from one number or a list of them."""
    values = [value] * levels if isinstance(value, int) else value
    if not isinstance(values, list | tuple) or len(values) != levels or not all(isinstance(v, int) for v in values):
        raise InteropError(f"{option}={value}: it must be a whole number, or {levels} of them.")
    return list(values)


def image_shape(config: Mapping[str, Any], channels: int) -> list[int]:
    """Shape (C, H, W) from `sample_size`."""
    size = config.get("sample_size")
    if size is None:
        raise InteropError("sample_size=null: the size of the images must be stated.")
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise InteropError(f"sample_size={size}: it must be a whole number, or two of them.")
    return [channels, *sides]


def written_sizes(options: Mapping[str, Any], kind: str, part: str = "network") -> dict[str, Any]:
    """`sample_size` and `block_out_channels` of a model of `kind` that equals one of ours of these options.

    Raises:
        ValueError: If theirs have no such widths; the message begins with `part`.
    """
    widths = [options["channels"] * multiplier for multiplier in options["multipliers"]]
    if widths[0] != options["channels"] or any(width != int(width) for width in widths):
        raise ValueError(f"{part}.multipliers={list(options['multipliers'])}: {kind} needs whole numbers, the first 1.")
    _, height, width = options["shape"]
    return {
        "sample_size": height if height == width else [height, width],
        "block_out_channels": [int(width) for width in widths],
    }


def written_blocks(attention: Sequence[int], kinds: Sequence[tuple[str, str]], levels: int) -> dict[str, Any]:
    """The block types of encoder and decoder with attention at these levels; `kinds` as in `attention_levels`."""
    attends = [level in attention for level in range(levels)]
    return {
        "down_block_types": [kinds[0][attention] for attention in attends],
        "up_block_types": [kinds[1][attention] for attention in reversed(attends)],
    }


def multiples(widths: Sequence[int]) -> list[int]:
    """The channels of each level as multiples of the first level's."""
    if not widths or any(width % widths[0] for width in widths):
        raise InteropError(f"block_out_channels={list(widths)}: each must be a multiple of the first.")
    return [width // widths[0] for width in widths]


def block_name(part: Part, last: int) -> str:
    """The diffusers name of a UNet layer; `last` is the number of the coarsest level."""
    sides = {"down": f"down_blocks.{part.level}", "middle": "mid_block", "up": f"up_blocks.{last - part.level}"}
    kinds = {"residual": "resnets", "attention": "attentions", "down": "downsamplers", "up": "upsamplers"}
    return f"{sides[part.side]}.{kinds[part.kind]}.{part.number}"


def attention_levels(
    down: Sequence[str], up: Sequence[str], kinds: Sequence[tuple[str, str]], levels: int
) -> list[int]:
    """The levels with attention, from the block types of encoder and decoder.

    `kinds` are the types without and with attention, of the encoder and of the decoder.
    """
    for option, blocks, known in zip(("down_block_types", "up_block_types"), (down, up), kinds, strict=True):
        if unknown := sorted(set(blocks) - set(known)):
            raise InteropError(f"{option}: {unknown[0]} is not supported; supported: {', '.join(known)}.")
    found = [level for level, kind in enumerate(down) if kind == kinds[0][1]]
    mirrored = [level for level, kind in enumerate(reversed(up)) if kind == kinds[1][1]]
    if len(down) != levels or len(up) != levels or found != mirrored:
        raise InteropError("up_block_types: they must mirror down_block_types, one for each of block_out_channels.")
    return found
