"""LDM's text encoder: ours against diffusers' `LDMBertModel`, under its names and under CompVis'."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from randomised import randomised

from denoiselab.interop import InteropError
from denoiselab.interop.ldm.token_encoder import ldm_bert, token_encoder

CONFIG = {
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 2,
    "head_dim": 4,
    "d_model": 12,
}
NUMBERS = torch.arange(16).reshape(2, 8)


@torch.no_grad()
def test_the_token_encoder_equals_diffusers_under_both_sets_of_names():
    theirs = randomised(LDMBertModel(LDMBertConfig(**CONFIG)))
    layout = ldm_bert({**theirs.config.to_dict()})
    state = layout.to_ours(theirs.state_dict(), Path("bert"))
    ours = layout.built(state)
    assert (ours(NUMBERS) - theirs(NUMBERS)[0]).abs().max() < 1e-5
    compvis = token_encoder(_compvis(state, layout), Path("model.ckpt"), heads=2)
    assert compvis.options == layout.options
    again = compvis.to_ours(_compvis(state, layout), Path("model.ckpt"))
    assert all(torch.equal(again[name], value) for name, value in state.items())


def _compvis(state, layout):
    names = {
        "token_emb.weight": state["embedding.weight"],
        "pos_emb.emb.weight": state["positions.weight"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
        "to_logits.weight": torch.zeros(20, 12),
        "to_logits.bias": torch.zeros(20),
    }
    for block in range(layout.options["depth"]):
        ours, attention, mlp = f"blocks.{block}", 2 * block, 2 * block + 1
        first, second = f"attn_layers.layers.{attention}", f"attn_layers.layers.{mlp}"
        for name, value in zip("qkv", state[f"{ours}.attention.qkv.weight"].chunk(3), strict=True):
            names[f"{first}.1.to_{name}.weight"] = value
        for end in ("weight", "bias"):
            names[f"{first}.0.{end}"] = state[f"{ours}.norm_attention.{end}"]
            names[f"{first}.1.to_out.{end}"] = state[f"{ours}.attention.out.{end}"]
            names[f"{second}.0.{end}"] = state[f"{ours}.norm_mlp.{end}"]
            names[f"{second}.1.net.0.0.{end}"] = state[f"{ours}.mlp.hidden.{end}"]
            names[f"{second}.1.net.2.{end}"] = state[f"{ours}.mlp.out.{end}"]
    return names


@torch.no_grad()
def test_masked_tokens_are_not_attended_to():
    layout = ldm_bert(CONFIG)
    ours = randomised(layout.module(**layout.options))
    mask = torch.arange(8).expand(2, 8) < 5
    other = torch.where(mask, NUMBERS, 19)
    assert torch.allclose(ours(NUMBERS, mask)[:, :5], ours(other, mask)[:, :5], atol=1e-6)
    assert (ours(NUMBERS)[:, :5] - ours(other)[:, :5]).abs().max() > 1e-3
    assert torch.allclose(ours(NUMBERS[:, :5]), ours(NUMBERS, mask)[:, :5], atol=1e-6)  # shorter texts need no padding


def test_features_that_are_not_of_so_many_heads_are_refused():
    layout = ldm_bert(CONFIG)
    state = _compvis(layout.module(**layout.options).state_dict(), layout)
    with pytest.raises(InteropError, match="8 features of its text encoder's attention are not of 3 heads"):
        token_encoder(state, Path("model.ckpt"), heads=3)
