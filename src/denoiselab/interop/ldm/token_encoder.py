"""LDM's trained text encoder as our `TokenEncoder`: under its own names, and under diffusers'.

Sources of the names: `BERTEmbedder` of CompVis/latent-diffusion (`ldm/modules/encoders/modules.py` and
`ldm/modules/x_transformer.py`), and `LDMBertModel` of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denoiselab.conditioners import TokenEncoder
from denoiselab.interop.diffusers.config_values import require
from denoiselab.interop.options import completed, count
from denoiselab.interop.weights.layout import Entry, Layout, Stacked, layer
from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, width_of

_LDM = {
    "embedding": "token_emb.weight",
    "positions": "pos_emb.emb.weight",
    "norm": "norm",
    "norm_attention": "attn_layers.layers.{even}.0",
    "qkv": ["attn_layers.layers.{even}.1.to_q", "attn_layers.layers.{even}.1.to_k", "attn_layers.layers.{even}.1.to_v"],
    "out": "attn_layers.layers.{even}.1.to_out",
    "norm_mlp": "attn_layers.layers.{odd}.0",
    "hidden": "attn_layers.layers.{odd}.1.net.0.0",
    "mlp_out": "attn_layers.layers.{odd}.1.net.2",
}
_DIFFUSERS = {
    "embedding": "model.embed_tokens.weight",
    "positions": "model.embed_positions.weight",
    "norm": "model.layer_norm",
    "norm_attention": "model.layers.{block}.self_attn_layer_norm",
    "qkv": [f"model.layers.{{block}}.self_attn.{x}_proj" for x in "qkv"],
    "out": "model.layers.{block}.self_attn.out_proj",
    "norm_mlp": "model.layers.{block}.final_layer_norm",
    "hidden": "model.layers.{block}.fc1",
    "mlp_out": "model.layers.{block}.fc2",
}


def token_encoder(state: State, where: Path, heads: int = 8) -> Layout:
    """The `TokenEncoder` of a state dict with the names in LDM's `BERTEmbedder.transformer`.

    Args:
        state: Without the prefix of the module.
        where: Its file.
        heads: Of each attention; 8 in all released models.
    """
    inner = width_of(state, _LDM["qkv"][0].format(even=0) + ".weight", where)
    if inner % heads:
        raise InteropError(f"{where}: the {inner} features of its text encoder's attention are not of {heads} heads.")
    options = {
        "vocabulary": width_of(state, "token_emb.weight", where),
        "length": width_of(state, "pos_emb.emb.weight", where),
        "width": width_of(state, "token_emb.weight", where, axis=1),
        "depth": numbered(state, "attn_layers.layers.{}.0.weight") // 2,
        "heads": heads,
        "head_features": inner // heads,
    }
    return Layout(TokenEncoder, options, _entries(options, _LDM), ["to_logits.*"])


def ldm_bert(config: Mapping[str, Any]) -> Layout:
    """The `TokenEncoder` that equals an `LDMBertModel` of diffusers."""
    require(config, {"activation_function": ("gelu",), "scale_embedding": (False,)})
    width = count("d_model", config["d_model"], most=10**5)
    require(config, {"encoder_ffn_dim": (4 * width,)})
    options = {
        "vocabulary": count("vocab_size", config["vocab_size"], most=10**7),
        "length": count("max_position_embeddings", config["max_position_embeddings"], most=10**5),
        "width": width,
        "depth": count("encoder_layers", config["encoder_layers"]),
        "heads": count("encoder_attention_heads", config["encoder_attention_heads"]),
        "head_features": count("head_dim", config["head_dim"], most=10**5),
    }
    return Layout(TokenEncoder, options, _entries(options, _DIFFUSERS), ["to_logits.*"])


def ldm_bert_config(options: Mapping[str, Any]) -> tuple[dict[str, Any], Layout]:
    """The configuration of the `LDMBertModel` that equals a `TokenEncoder` of these options, and its layout."""
    full = completed(TokenEncoder, options)
    config = {
        "model_type": "ldmbert",
        "architectures": ["LDMBertModel"],
        "vocab_size": full["vocabulary"],
        "max_position_embeddings": full["length"],
        "d_model": full["width"],
        "encoder_ffn_dim": 4 * full["width"],
        "encoder_layers": full["depth"],
        "encoder_attention_heads": full["heads"],
        "head_dim": full["head_features"],
        "activation_function": "gelu",
    }
    return config, ldm_bert(config)


def _entries(options: Mapping[str, Any], names: Mapping[str, Any]) -> list[Entry]:
    found = [
        Entry("embedding.weight", (names["embedding"],)),
        Entry("positions.weight", (names["positions"],)),
        *layer("norm", names["norm"]),
    ]
    for block in range(options["depth"]):
        numbers = {"block": block, "even": 2 * block, "odd": 2 * block + 1}
        own = {key: name.format(**numbers) for key, name in names.items() if isinstance(name, str)}
        ours = f"blocks.{block}"
        found += [
            *layer(f"{ours}.norm_attention", own["norm_attention"]),
            *layer(f"{ours}.attention.qkv", [name.format(**numbers) for name in names["qkv"]], Stacked(3), None),
            *layer(f"{ours}.attention.out", own["out"]),
            *layer(f"{ours}.norm_mlp", own["norm_mlp"]),
            *layer(f"{ours}.mlp.hidden", own["hidden"]),
            *layer(f"{ours}.mlp.out", own["mlp_out"]),
        ]
    return found
