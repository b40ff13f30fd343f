"""The UNet of DDPM and ADM under the names of other code bases: its layers in order, and the list of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from torch import Tensor

from denoiselab.interop.weights.layout import SAME, Entry, Stacked, Way, layer


class Part(NamedTuple):
    """A layer of the UNet.

    Attributes:
        kind: `residual`, `attention`, or `down` and `up`: a convolution that changes the resolution.
        side: `down`, `middle` or `up`.
        level: From 0, the finest.
        number: Of its kind on its side of its level, from 0.
        ours: Our name.
        skip: Whether a residual block has a convolution of size 1 on its skip connection.
    """

    kind: str
    side: str
    level: int
    number: int
    ours: str
    skip: bool = False


def parts(options: Mapping[str, Any], *, encoder_only: bool = False) -> Iterator[Part]:
    """All layers between the first and the last, in order.

    Args:
        options: Of a `DDPMUNet`, an `ADMUNet`, a `TextUNet` or an `ADMClassifier`.
        encoder_only: Leave out the decoder.
    """
    widths = [int(options["channels"] * multiplier) for multiplier in options["multipliers"]]
    blocks, attention, last = options["blocks"], options["attention_levels"], len(widths) - 1
    resample = "residual" if options.get("block_resampling", False) else None
    width, place = widths[0], count()
    for level in range(len(widths)):
        for number in range(blocks):
            here = f"down.{next(place)}"
            yield Part("residual", "down", level, number, f"{here}.0", width != widths[level])
            if level in attention:
                yield Part("attention", "down", level, number, f"{here}.1")
            width = widths[level]
        if level < last:
            yield Part(resample or "down", "down", level, blocks if resample else 0, f"down.{next(place)}.0")
    middle = ["residual", *(["attention"] if options.get("middle_attention", True) else []), "residual"]
    for index, kind in enumerate(middle):
        yield Part(kind, "middle", last, middle[:index].count(kind), f"middle.{index}")
    if encoder_only:
        return
    place = count()
    for level in reversed(range(len(widths))):
        for number in range(blocks + 1):
            here = f"up.{next(place)}"
            # Its input, concatenated with an encoder state, is always wider than its output.
            yield Part("residual", "up", level, number, f"{here}.0", skip=True)
            if level in attention:
                yield Part("attention", "up", level, number, f"{here}.1")
            if level and number == blocks:
                name = f"{here}.{1 + (level in attention)}"
                yield Part(resample or "up", "up", level, blocks + 1 if resample else 0, name)


class Names(NamedTuple):
    """The names of the layers in another code base.

    Attributes:
        place: The name of a part.
        residual: Within a residual block: first norm and convolution, embedding, second norm and convolution, skip.
        norm: Within attention.
        qkv: Within attention: queries, keys and values, in one layer or three.
        out: Within attention.
        resample: Within a change of resolution, the convolution: by the part's kind.
        time: The two layers of the time embedding.
        ends: First convolution, last norm, last convolution.
        first: Conversion of the weights of the time embedding's first layer.
        qkv_ways: Conversions of the weights and biases of queries, keys and values; a function of the part.
        out_way: Conversion of the weights of the attention's last layer.
        projection: In a `TextUNet`, whose attentions are transformers: conversion of the layers around their blocks.
    """

    place: Callable[[Part], str]
    residual: Sequence[str]
    norm: str
    qkv: Sequence[str]
    out: str
    resample: Mapping[str, str]
    time: Sequence[str]
    ends: Sequence[str]
    first: Way
    qkv_ways: Callable[[Part], tuple[Way, Way]]
    out_way: Way
    projection: Way | None = None


def entries(options: Mapping[str, Any], names: Names, *, encoder_only: bool = False) -> list[Entry]:
    """The list of a UNet's weights, without the class embedding.

    Args:
        options: As in `parts`.
        names: Of the other code base.
        encoder_only: Leave out the decoder and the last convolution.
    """
    found = [*layer("time.1", names.time[0], names.first), *layer("time.3", names.time[1])]
    for ours, theirs in zip(("stem", "norm", "head")[: 2 if encoder_only else 3], names.ends, strict=False):
        found += layer(ours, theirs)
    inside = ("norm_in", "conv_in", "embedding", "norm_out", "conv_out", "skip")
    for part in parts(options, encoder_only=encoder_only):
        theirs = names.place(part)
        if part.kind == "residual":
            for ours, name in zip(inside[: 6 if part.skip else 5], names.residual, strict=False):
                found += layer(f"{part.ours}.{ours}", f"{theirs}.{name}")
        elif part.kind == "attention" and names.projection is not None:
            found += _transformer(part.ours, theirs, options["depth"][part.level], names.projection)
        elif part.kind == "attention":
            found += layer(f"{part.ours}.norm", f"{theirs}.{names.norm}")
            found += layer(f"{part.ours}.qkv", [f"{theirs}.{name}" for name in names.qkv], *names.qkv_ways(part))
            found += layer(f"{part.ours}.out", f"{theirs}.{names.out}", names.out_way)
        else:
            found += layer(f"{part.ours}.conv", f"{theirs}.{names.resample[part.kind]}")
    return found


def _transformer(ours: str, theirs: str, depth: int, projection: Way) -> list[Entry]:
    """The list of a transformer's weights, whose names CompVis' and diffusers' code share."""
    found = [
        *layer(f"{ours}.norm", f"{theirs}.norm"),
        *layer(f"{ours}.before", f"{theirs}.proj_in", projection),
        *layer(f"{ours}.after", f"{theirs}.proj_out", projection),
    ]
    for number in range(depth):
        a, b = f"{ours}.blocks.{number}", f"{theirs}.transformer_blocks.{number}"
        found += [
            *layer(f"{a}.norm_attention", f"{b}.norm1"),
            *layer(f"{a}.attention.qkv", [f"{b}.attn1.to_{x}" for x in "qkv"], Stacked(3), None),
            *layer(f"{a}.attention.out", f"{b}.attn1.to_out.0"),
            *layer(f"{a}.norm_cross", f"{b}.norm2"),
            *layer(f"{a}.cross.q", f"{b}.attn2.to_q", bias=None),
            *layer(f"{a}.cross.kv", [f"{b}.attn2.to_{x}" for x in "kv"], Stacked(2), None),
            *layer(f"{a}.cross.out", f"{b}.attn2.to_out.0"),
            *layer(f"{a}.norm_mlp", f"{b}.norm3"),
            *layer(f"{a}.mlp.hidden", f"{b}.ff.net.0.proj"),
            *layer(f"{a}.mlp.out", f"{b}.ff.net.2"),
        ]
    return found


class Halves(Way):
    """A matrix with the two halves of its columns exchanged: cosines and sines of the time embedding."""

    def ours(self, *theirs: Tensor) -> Tensor:
        return SAME.ours(*theirs).roll(theirs[0].shape[1] // 2, dims=1)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return (ours.roll(ours.shape[1] // 2, dims=1),)
