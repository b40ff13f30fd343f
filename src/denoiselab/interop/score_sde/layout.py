"""NCSN++ and DDPM++ under the names of yang-song/score_sde_pytorch, which numbers all layers in one list.

Source of the list: `models/ncsnpp.py` and `models/layerspp.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.interop.options import completed
from denoiselab.interop.weights.layout import Entry, Layout, Stacked, Way, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import NCSNpp


def ncsnpp_layout(config: Mapping[str, Any], where: Path) -> Layout:
    """Their `ncsnpp`, or `ddpm` with the choices that make it one, as our NCSNpp."""
    model, data = config["model"], config["data"]
    wanted = {"nonlinearity": "swish", "conditional": True, "resamp_with_conv": True}
    for key, value in wanted.items():
        if model[key] != value:
            raise InteropError(f"{where}: model.{key}={model[key]} is not supported; {value} is.")
    if model["name"] == "ddpm" and any(model["nf"] * multiple % 128 for multiple in (1, *model["ch_mult"])):
        raise InteropError(
            f"{where}: model.nf={model['nf']}: a ddpm needs channels divisible by 128, otherwise its norms differ."
        )
    taps = list(model["fir_kernel"]) if model["fir"] else None
    if taps and taps != taps[::-1]:
        raise InteropError(f"{where}: model.fir_kernel={taps} is not supported; symmetric ones are.")
    size = data["image_size"]
    shape = [data["num_channels"], size, size]
    levels = range(len(model["ch_mult"]))
    options = {
        "shape": shape,
        "channels": model["nf"],
        "multipliers": list(model["ch_mult"]),
        "blocks": model["num_res_blocks"],
        "attention_levels": [level for level in levels if size // 2**level in model["attn_resolutions"]],
        "dropout": model["dropout"],
        "fourier_scale": float(model["fourier_scale"]) if model["embedding_type"] == "fourier" else None,
        "fir": taps,
        "residual_blocks": model["resblock_type"],
        "progressive_input": {"none": None, "input_skip": "skip", "residual": "residual"}[model["progressive_input"]],
        "progressive_output": {"none": None, "output_skip": "skip", "residual": "residual"}[model["progressive"]],
        "combine": model["progressive_combine"] if model["progressive_input"] == "input_skip" else "sum",
        "skip_rescale": model["skip_rescale"],
    }
    return Layout(NCSNpp, options, ncsnpp_entries(options), ignored=["sigmas"])


def ncsnpp_entries(options: Mapping[str, Any]) -> list[Entry]:
    """The list of the weights of our NCSNpp with `options`."""
    given = completed(NCSNpp, options)
    ours = Layout(NCSNpp, options, ()).skeleton()
    walk = _Walk(ours, biggan=given["residual_blocks"] == "biggan", conv=".conv" if given["fir"] else ".1")
    count, attentive = len(given["multipliers"]), given["attention_levels"]
    if given["fourier_scale"] is not None:
        walk.entries.append(Entry("features.frequencies", (f"{walk.next()}.W",)))
    for name in ("mapping.0", "mapping.2", "stem"):
        walk.plain(name)
    for level in range(count):
        stage = f"encoder.{level}"
        if level:
            walk.resample(stage)
            if given["progressive_input"] == "skip":
                walk.entries += layer(f"{stage}.enter", f"{walk.next()}.Conv")
            elif given["progressive_input"] == "residual":
                walk.resampling_conv(f"{stage}.pyramid")
        for number in range(given["blocks"]):
            walk.block(f"{stage}.blocks.{number}")
            if level in attentive:
                walk.attention(f"{stage}.attentions.{number}")
    walk.block("middle.0")
    walk.attention("middle.1")
    walk.block("middle.2")
    for index, level in enumerate(reversed(range(count))):
        stage = f"decoder.{index}"
        for number in range(given["blocks"] + 1):
            walk.block(f"{stage}.blocks.{number}")
        if level in attentive:
            walk.attention(f"{stage}.attention")
        if given["progressive_output"] == "skip" or (given["progressive_output"] == "residual" and not index):
            walk.plain(f"{stage}.read.0")
            walk.plain(f"{stage}.read.1")
        elif given["progressive_output"] == "residual":
            walk.resampling_conv(f"{stage}.pyramid")
        if level:
            walk.resample(stage)
    if given["progressive_output"] != "skip":
        walk.plain("head.0")
        walk.plain("head.1")
    return walk.entries


class _Walk:
    """Numbers their layers while it lists ours.

    Args:
        ours: Names of our state dict.
        biggan: Whether residual blocks resample.
        conv: Place of the convolution in our resampling layers.
    """

    def __init__(self, ours: Mapping[str, Tensor], *, biggan: bool, conv: str) -> None:
        self.ours, self.biggan, self.conv = ours, biggan, conv
        self.entries: list[Entry] = []
        self.number = -1

    def next(self) -> str:
        """The name of their next layer."""
        self.number += 1
        return f"all_modules.{self.number}"

    def plain(self, ours: str) -> None:
        """Add a layer with weight and bias."""
        self.entries += layer(ours, self.next())

    def block(self, ours: str) -> None:
        """Add a residual block."""
        theirs = self.next()
        names = {"norm_in": "GroupNorm_0", "conv_in": "Conv_0", "embedding": "Dense_0"}
        names |= {"norm_out": "GroupNorm_1", "conv_out": "Conv_1"}
        for mine, name in names.items():
            self.entries += layer(f"{ours}.{mine}", f"{theirs}.{name}")
        if f"{ours}.skip.weight" in self.ours:
            if self.biggan:
                self.entries += layer(f"{ours}.skip", f"{theirs}.Conv_2")
            else:
                self.entries += _nin(f"{ours}.skip", [f"{theirs}.NIN_0"], _Columns(1, 2))

    def attention(self, ours: str) -> None:
        """Add self-attention."""
        theirs = self.next()
        self.entries += layer(f"{ours}.norm", f"{theirs}.GroupNorm_0")
        self.entries += _nin(f"{ours}.qkv", [f"{theirs}.NIN_{i}" for i in range(3)], _Columns(3))
        self.entries += _nin(f"{ours}.out", [f"{theirs}.NIN_3"], _Columns(1))

    def resample(self, stage: str) -> None:
        """Add a layer that resamples the features."""
        if self.biggan:
            self.block(f"{stage}.resample")
        else:
            self.resampling_conv(f"{stage}.resample")

    def resampling_conv(self, ours: str) -> None:
        """Add a layer that resamples by a convolution."""
        self.entries += layer(f"{ours}{self.conv}", f"{self.next()}.{'Conv2d_0' if self.conv == '.conv' else 'Conv_0'}")


class _Columns(Way):
    """`count` matrices `(I, O)` as one tensor `(count O, I, 1, ...)` with `dims` axes of size 1."""

    def __init__(self, count: int, dims: int = 0) -> None:
        self.count, self.dims = count, dims

    def ours(self, *theirs: Tensor) -> Tensor:
        rows = torch.cat([matrix.t() for matrix in theirs])
        return rows.reshape(*rows.shape, *[1] * self.dims)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return [part.t() for part in ours.flatten(1).chunk(self.count)]


def _nin(ours: str, theirs: Sequence[str], way: Way) -> list[Entry]:
    return [
        Entry(f"{ours}.weight", tuple(f"{name}.W" for name in theirs), way),
        Entry(f"{ours}.bias", tuple(f"{name}.b" for name in theirs), Stacked(len(theirs))),
    ]
