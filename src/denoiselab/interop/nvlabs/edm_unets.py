"""The networks of NVlabs' EDM under their names.

Source of the names and defaults: `training/networks.py` of NVlabs/edm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.interop.options import count
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Pointwise, Regrouped, Way, layer
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.interop.weights.unet_names import Names, Part, entries
from denoiselab.networks import ADMUNet, NCSNpp


def edm_layout(kind: str, config: Mapping[str, Any]) -> Layout:
    """The network in a preconditioner of EDM of this class and arguments, its names without the prefix `model.`."""
    default = "SongUNet" if kind in ("VPPrecond", "VEPrecond") else "DhariwalUNet"
    network = config.get("model_type", default)
    layouts = {"SongUNet": song_layout, "DhariwalUNet": dhariwal_layout}
    if network not in layouts:
        raise InteropError(f"model_type={network} is unknown; known: {', '.join(layouts)}.")
    count("num_blocks", config.get("num_blocks", 1))
    return layouts[network](config, 2 if kind == "iDDPMPrecond" else 1)


def song_layout(config: Mapping[str, Any], outputs: int = 1) -> Layout:
    """EDM's `SongUNet` as our NCSNpp; arguments and errors as in `edm_layout`."""
    given = {**_SONG, **config}
    for key, allowed in _CHOICES.items():
        if given[key] not in allowed:
            raise InteropError(f"{key}={given[key]} is unknown; known: {', '.join(allowed)}.")
    size, mult, fir = given["img_resolution"], list(given["channel_mult"]), list(given["resample_filter"])
    plain = fir == [1, 1]
    fourier = given["embedding_type"] == "fourier"
    if given["channel_mult_noise"] != (2 if fourier else 1) or given["channel_mult_emb"] != 4:
        raise InteropError("channel_mult_noise and channel_mult_emb are supported with the source's values only.")
    if given["encoder_type"] == "residual" and plain:
        raise InteropError("encoder_type=residual with resample_filter=[1, 1] is not supported.")
    options = {
        "shape": [given["img_channels"], size, size],
        "channels": given["model_channels"],
        "multipliers": mult,
        "blocks": given["num_blocks"],
        "attention_levels": _attention(size, mult, given["attn_resolutions"]),
        "dropout": given["dropout"],
        "fourier_scale": 16.0 if fourier else None,
        "fir": None if plain else fir,
        "progressive_input": {"standard": None, "skip": "skip", "residual": "residual"}[given["encoder_type"]],
        "progressive_output": {"standard": None, "skip": "skip"}[given["decoder_type"]],
        "num_classes": given["label_dim"] or None,
        "augmentation_features": given["augment_dim"] or None,
        "outputs": outputs,
    }
    return Layout(NCSNpp, options, _song_entries(given, options), ignored=["*.resample_filter"])


def _song_entries(given: Mapping[str, Any], options: Mapping[str, Any]) -> list[Entry]:
    size, levels = given["img_resolution"], len(options["multipliers"])
    skeleton = Layout(NCSNpp, options, ()).skeleton()
    names = [
        *layer("mapping.0", "map_layer0"),
        *layer("mapping.2", "map_layer1"),
        *layer("stem", f"enc.{size}x{size}_conv"),
    ]
    if options["fourier_scale"] is not None:
        names.append(Entry("features.frequencies", ("map_noise.freqs",)))
    if given["label_dim"]:
        names.append(Entry("classes.weight", ("map_label.weight", "map_label.bias"), _Table()))
    if given["augment_dim"]:
        names.append(Entry("augmentation.weight", ("map_augment.weight",)))

    def block(ours: str, theirs: str, attention: str | None = None) -> None:
        inside = {
            "norm_in": "norm0",
            "conv_in": "conv0",
            "embedding": "affine",
            "norm_out": "norm1",
            "conv_out": "conv1",
        }
        if f"{ours}.skip.weight" in skeleton:
            inside["skip"] = "skip"
        for mine, name in inside.items():
            names.extend(layer(f"{ours}.{mine}", f"{theirs}.{name}"))
        if attention is not None:
            width = skeleton[f"{attention}.norm.weight"].shape[0]
            names.extend(layer(f"{attention}.norm", f"{theirs}.norm2"))
            names.extend(layer(f"{attention}.qkv", f"{theirs}.qkv", *_qkv(width)))
            names.extend(layer(f"{attention}.out", f"{theirs}.proj", Pointwise(2)))

    for level in range(levels):
        res = f"{size >> level}x{size >> level}"
        attends = level in options["attention_levels"]
        if level:
            block(f"encoder.{level}.resample", f"enc.{res}_down")
            if options["progressive_input"] == "skip":
                names += layer(f"encoder.{level}.enter", f"enc.{res}_aux_skip")
            elif options["progressive_input"] == "residual":
                names += layer(f"encoder.{level}.pyramid.conv", f"enc.{res}_aux_residual")
        for number in range(options["blocks"]):
            attention = f"encoder.{level}.attentions.{number}" if attends else None
            block(f"encoder.{level}.blocks.{number}", f"enc.{res}_block{number}", attention)
        stage = f"decoder.{levels - 1 - level}"
        for number in range(options["blocks"] + 1):
            attention = f"{stage}.attention" if attends and number == options["blocks"] else None
            block(f"{stage}.blocks.{number}", f"dec.{res}_block{number}", attention)
        if level < levels - 1:  # the upsampling at the end of the coarser level
            block(f"decoder.{levels - 2 - level}.resample", f"dec.{res}_up")
        else:
            block("middle.0", f"dec.{res}_in0", "middle.1")
            block("middle.2", f"dec.{res}_in1")
        if options["progressive_output"] == "skip" or level == 0:
            read = f"{stage}.read" if options["progressive_output"] == "skip" else "head"
            names += [*layer(f"{read}.0", f"dec.{res}_aux_norm"), *layer(f"{read}.1", f"dec.{res}_aux_conv")]
    return names


def dhariwal_layout(config: Mapping[str, Any], outputs: int = 1) -> Layout:
    """EDM's `DhariwalUNet` as our ADMUNet; arguments and errors as in `edm_layout`."""
    given = {**_DHARIWAL, **config}
    size, mult, channels = given["img_resolution"], list(given["channel_mult"]), given["model_channels"]
    if given["augment_dim"] or given["channel_mult_emb"] != 4:
        raise InteropError("augment_dim and channel_mult_emb other than 0 and 4 are not supported.")
    if channels * min(mult) < 128:
        raise InteropError("levels of less than 128 channels are not supported; their norms have less than 32 groups.")
    null_class = bool(given["label_dropout"])
    options = {
        "shape": [given["img_channels"], size, size],
        "channels": channels,
        "multipliers": mult,
        "blocks": given["num_blocks"],
        "attention_levels": _attention(size, mult, given["attn_resolutions"]),
        "dropout": given["dropout"],
        "num_classes": given["label_dim"] or None,
        "null_class": null_class,
        "outputs": outputs,
    }

    def place(part: Part) -> str:
        res = size >> part.level
        if part.side == "middle":
            return f"dec.{res}x{res}_in{part.number if part.kind == 'residual' else 0}"
        resampling = part.kind == "residual" and part.number == options["blocks"] + (part.side == "up")
        if resampling:  # they number it by the level of its output
            return f"enc.{res // 2}x{res // 2}_down" if part.side == "down" else f"dec.{2 * res}x{2 * res}_up"
        return f"{'enc' if part.side == 'down' else 'dec'}.{res}x{res}_block{part.number}"

    names = Names(
        place=place,
        residual=("norm0", "conv0", "affine", "norm1", "conv1", "skip"),
        norm="norm2",
        qkv=("qkv",),
        out="proj",
        resample={},
        time=("map_layer0", "map_layer1"),
        ends=(f"enc.{size}x{size}_conv", "out_norm", "out_conv"),
        first=SAME,
        qkv_ways=lambda part: _qkv(channels * mult[part.level]),
        out_way=Pointwise(2),
    )
    tail = [Entry("classes.weight", ("map_label.weight",), _Columns(null_class))] if given["label_dim"] else []
    return Layout(
        ADMUNet, options, [*entries({**options, "block_resampling": True}, names), *tail], ignored=["*.resample_filter"]
    )


_CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}
_SONG: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.1,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}
_DHARIWAL: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.1,
    "label_dropout": 0,
}


class _Table(Way):
    """A linear layer (weight `(D, N)`, bias `(D,)`) on sqrt(N) times one-hot labels as our class table `(N + 1, D)`.

    The bias is the row of the null class.
    """

    def ours(self, *theirs: Tensor) -> Tensor:
        weight, bias = theirs
        return torch.cat((math.sqrt(weight.shape[1]) * weight.T + bias, bias[None]))

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        bias = ours[-1]
        return ((ours[:-1] - bias) / math.sqrt(len(ours) - 1)).T, bias


class _Columns(Way):
    """A linear layer `(D, N)` without bias on one-hot labels as our class table, with a row of 0 for a null class."""

    def __init__(self, null_class: bool) -> None:
        self.null_class = null_class

    def ours(self, *theirs: Tensor) -> Tensor:
        (weight,) = theirs
        rows = weight.T
        return torch.cat((rows, torch.zeros_like(rows[:1]))) if self.null_class else rows

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return ((ours[:-1] if self.null_class else ours).T,)


def _attention(size: int, mult: Sequence[int], resolutions: Sequence[int]) -> list[int]:
    return [level for level in range(len(mult)) if size >> level in resolutions]


def _qkv(width: int) -> tuple[Way, Way]:
    """Their rows are in the order (head, feature, query-key-value)."""
    return Regrouped(width, 3, Pointwise(2)), Regrouped(width, 3)
