"""The text encoders of CLIP in Stable Diffusion's checkpoints, in transformers' format.

Sources of the names: `FrozenCLIPEmbedder` and `FrozenOpenCLIPEmbedder` of Stability-AI/stablediffusion
(`ldm/modules/encoders/modules.py`), and mlfoundations/open_clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from denoiselab.interop.weights.state_dicts import InteropError, State, numbered, width_of

# Features of a head in the published text encoders.
_HEAD = 64

# Layers of a block of OpenAI's and open_clip's code, to those of transformers.
_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def clip(state: State, where: Path) -> tuple[dict[str, Any], State]:
    """Configuration and weights of a `CLIPTextModel`, of a state dict with the names of transformers.

    Args:
        state: Without the prefix `cond_stage_model.transformer.`.
        where: Its file.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}
    return _configuration(kept, where, "quick_gelu"), kept


def open_clip(state: State, where: Path) -> tuple[dict[str, Any], State]:
    """The same of a state dict with the names of open_clip; its last block is left out, as Stable Diffusion 2 does.

    Args:
        state: Without the prefix `cond_stage_model.model.`.
        where: Its file.
    """
    blocks = numbered(state, "transformer.resblocks.{}.ln_1.weight")
    if blocks < 2:
        raise InteropError(f"{where}: its text encoder has {blocks} blocks; at least 2 are needed.")
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    found = {ours: state[theirs] for theirs, ours in names.items() if theirs in state}
    for block in range(blocks - 1):
        theirs, ours = f"transformer.resblocks.{block}", f"encoder.layers.{block}"
        for end in ("weight", "bias"):
            found |= {f"{ours}.{b}.{end}": _of(state, f"{theirs}.{a}.{end}", where) for a, b in _LAYERS.items()}
            fused = _of(state, f"{theirs}.attn.in_proj_{end}", where)
            found |= {f"{ours}.self_attn.{x}_proj.{end}": y for x, y in zip("qkv", fused.chunk(3), strict=True)}
    found = {f"text_model.{name}": tensor for name, tensor in found.items()}
    return _configuration(found, where, "gelu"), found


def _of(state: State, name: str, where: Path) -> Tensor:
    if name not in state:
        raise InteropError(f"{where}: its text encoder lacks '{name}'.")
    return state[name]


def _configuration(state: State, where: Path, activation: str) -> dict[str, Any]:
    vocabulary = width_of(state, "text_model.embeddings.token_embedding.weight", where)
    width = width_of(state, "text_model.embeddings.token_embedding.weight", where, axis=1)
    if width % _HEAD:
        raise InteropError(f"{where}: the {width} features of its text encoder are not of heads of {_HEAD}.")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": width_of(state, "text_model.encoder.layers.0.mlp.fc1.weight", where),
        "num_hidden_layers": numbered(state, "text_model.encoder.layers.{}.layer_norm1.weight"),
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": width_of(state, "text_model.embeddings.position_embedding.weight", where),
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }
