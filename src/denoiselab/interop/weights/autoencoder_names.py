"""Latent diffusion's autoencoders under the names of other code bases: the list of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from denoiselab.interop.weights.layout import Entry, Stacked, Way, layer

# Layers of a residual block but the convolution of its skip connection, in all code bases.
_RESIDUAL = {"norm_in": "norm1", "conv_in": "conv1", "norm_out": "norm2", "conv_out": "conv2"}


class AutoencoderNames(NamedTuple):
    """The names of the layers in another code base; a level is counted from 0, the finest, and None is the middle.

    Attributes:
        block: A residual block, by side (`encoder` or `decoder`), level and number.
        attention: The attention after it.
        resample: The convolution that changes the resolution at a level, by side.
        norm: Last norm of a side.
        skip: Within a residual block.
        inside: Within attention: norm, queries, keys, values and last layer.
        qkv: Conversion of the weights of queries, keys and values.
        out: Conversion of the weights of the attention's last layer.
    """

    block: Callable[[str, int | None, int], str]
    attention: Callable[[str, int | None, int], str]
    resample: Callable[[str, int], str]
    norm: str
    skip: str
    inside: tuple[str, str, str, str, str]
    qkv: Way
    out: Way


def autoencoder_entries(options: Mapping[str, Any], names: AutoencoderNames) -> list[Entry]:
    """The list of the weights of an encoder and its decoder, whose options are those of a `LatentModel`."""
    multipliers, blocks = options["multipliers"], options["blocks"]
    last, attention = len(multipliers) - 1, options["attention_levels"]
    found: list[Entry] = []
    for side in ("encoder", "decoder"):
        for ours, theirs in (("stem", "conv_in"), ("norm", names.norm), ("head", "conv_out")):
            found += layer(f"{side}.{ours}", f"{side}.{theirs}")
        for number in range(2):
            with_attention = options["middle_attention"] and number == 0
            found += _stage(names, f"{side}.middle.{number}", (side, None, number), False, with_attention)
    width = 1
    for level, multiplier in enumerate(multipliers):
        for number in range(blocks):
            place = ("encoder", level, number)
            found += _stage(names, f"encoder.down.{level}.{number}", place, width != multiplier, level in attention)
            width = multiplier
        if level < last:
            found += layer(f"encoder.down.{level}.{blocks}.conv", names.resample("encoder", level))
    for up, level in enumerate(range(last, -1, -1)):
        for number in range(blocks + 1):
            ours, skip = f"decoder.up.{up}.{number}", width != multipliers[level]
            found += _stage(names, ours, ("decoder", level, number), skip, level in attention)
            width = multipliers[level]
        if level:
            found += layer(f"decoder.up.{up}.{blocks + 1}.conv", names.resample("decoder", level))
    return found


def _stage(
    names: AutoencoderNames, ours: str, place: tuple[str, int | None, int], skip: bool, attention: bool
) -> list[Entry]:
    inside = {**_RESIDUAL, "skip": names.skip} if skip else _RESIDUAL
    block = names.block(*place)
    found = [entry for a, b in inside.items() for entry in layer(f"{ours}.{a}", f"{block}.{b}")]
    if attention:
        norm, *qkv, out = (f"{names.attention(*place)}.{name}" for name in names.inside)
        found += layer(f"{ours}.attention.norm", norm)
        found += layer(f"{ours}.attention.qkv", qkv, names.qkv, Stacked(3))
        found += layer(f"{ours}.attention.out", out, names.out)
    return found
