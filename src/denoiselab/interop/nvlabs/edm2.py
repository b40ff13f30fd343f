"""The network of NVlabs' EDM2 under its names.

Source of the names and defaults: `training/networks_edm2.py` of NVlabs/edm2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiselab.interop.options import count
from denoiselab.interop.weights.layout import Entry, Layout
from denoiselab.interop.weights.state_dicts import InteropError
from denoiselab.networks import EDM2UNet

# Our names to theirs, within a block.
_BLOCK = {
    "embedding_gain": "emb_gain",
    "conv_in.weight": "conv_res0.weight",
    "embedding.weight": "emb_linear.weight",
    "conv_out.weight": "conv_res1.weight",
    "skip.weight": "conv_skip.weight",
    "qkv.weight": "attn_qkv.weight",
    "out.weight": "attn_proj.weight",
}

# Their names to ours, of the constructor's arguments.
_OPTIONS = {
    "model_channels": "channels",
    "num_blocks": "blocks",
    "channel_mult_noise": "noise_multiplier",
    "channel_mult_emb": "embedding_multiplier",
    "label_balance": "label_balance",
    "concat_balance": "concat_balance",
    "dropout": "dropout",
    "channels_per_head": "head_channels",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "clip",
}

# Arguments that do not change the network: precision, and the head of loss weights.
_ELSEWHERE = {"use_fp16", "sigma_data", "logvar_channels"}


def edm2_layout(config: Mapping[str, Any]) -> Layout:
    """EDM2's `UNet` as our EDM2UNet, from the arguments of `Precond`; its names are without the prefix `unet.`."""
    count("num_blocks", config.get("num_blocks", 1))
    size, mult = config["img_resolution"], list(config.get("channel_mult", [1, 2, 3, 4]))
    own = {"img_resolution", "img_channels", "label_dim", "channel_mult", "attn_resolutions", "resample_filter"}
    unknown = [key for key in config if key not in own | _OPTIONS.keys() | _ELSEWHERE]
    if unknown:
        raise InteropError(f"{unknown[0]}={config[unknown[0]]} is not supported.")
    options = {
        "shape": [config["img_channels"], size, size],
        "multipliers": mult,
        "attention_levels": [n for n in range(len(mult)) if size >> n in config.get("attn_resolutions", [16, 8])],
        "fir": list(config.get("resample_filter", [1, 1])),
        "num_classes": config.get("label_dim") or None,
        **{ours: config[theirs] for theirs, ours in _OPTIONS.items() if theirs in config},
    }
    skeleton = Layout(EDM2UNet, options, ()).skeleton()
    blocks = _blocks(options, size, skeleton)
    names = {
        "features.frequencies": "emb_fourier.freqs",
        "features.phases": "emb_fourier.phases",
        "noise.weight": "emb_noise.weight",
        "classes.weight": "emb_label.weight",
        "stem.weight": f"enc.{size}x{size}_conv.weight",
        "head.weight": "out_conv.weight",
        "gain": "out_gain",
        **{f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in blocks.items() for a, b in _BLOCK.items()},
    }
    return Layout(EDM2UNet, options, [Entry(name, (names[name],)) for name in skeleton])


def _blocks(options: Mapping[str, Any], size: int, skeleton: Mapping[str, Any]) -> dict[str, str]:
    """Our names of blocks to theirs."""
    levels = len(options["multipliers"])
    found: dict[str, str] = {}
    for level in range(levels):
        res = f"{size >> level}x{size >> level}"
        places = [] if level == 0 else [f"enc.{res}_down"]
        decoder = [f"dec.{res}_in0", f"dec.{res}_in1"] if level == levels - 1 else [f"dec.{res}_up"]
        number = 0
        while f"encoder.{level}.{len(places)}.embedding_gain" in skeleton:
            places.append(f"enc.{res}_block{number}")
            decoder.append(f"dec.{res}_block{number}")
            number += 1
        decoder.append(f"dec.{res}_block{number}")
        found |= {f"encoder.{level}.{place}": theirs for place, theirs in enumerate(places)}
        found |= {f"decoder.{levels - 1 - level}.{place}": theirs for place, theirs in enumerate(decoder)}
    return found
