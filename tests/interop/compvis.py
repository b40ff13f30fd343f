"""Tiny models of diffusers as the `.ckpt` that CompVis' code would have saved of the same weights."""

import torch

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _moved(state, places):
    """The state with the beginnings of names replaced; every name must have one."""
    moved = {}
    for name, tensor in state.items():
        old = max((place for place in places if name.startswith(f"{place}.")), key=len)
        moved[places[old] + name.removeprefix(old)] = tensor
    return moved


def unet(model):
    """The names of `UNetModel`, of a `UNet2DConditionModel`."""
    blocks, levels = model.config.layers_per_block, len(model.config.block_out_channels)
    places = dict(ENDS)

    def add(theirs, ours, attention):
        places.update({f"{theirs.format('resnets')}.{a}": f"{ours}.0.{b}" for a, b in RESIDUAL.items()})
        if attention:
            places[theirs.format("attentions")] = f"{ours}.1"

    for level in range(levels):
        attends = "CrossAttn" in model.config.down_block_types[level]
        first = 1 + level * (blocks + 1)
        for number in range(blocks):
            add(f"down_blocks.{level}.{{}}.{number}", f"input_blocks.{first + number}", attends)
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + blocks}.0.op"
        for number in range(blocks + 1):
            place = (levels - 1 - level) * (blocks + 1) + number
            add(f"up_blocks.{levels - 1 - level}.{{}}.{number}", f"output_blocks.{place}", attends)
        last = (levels - level) * (blocks + 1) - 1
        places[f"up_blocks.{levels - 1 - level}.upsamplers.0.conv"] = f"output_blocks.{last}.{1 + attends}.conv"
    for number, place in enumerate((0, 2)):
        places.update({f"mid_block.resnets.{number}.{a}": f"middle_block.{place}.{b}" for a, b in RESIDUAL.items()})
    places["mid_block.attentions.0"] = "middle_block.1"
    return _moved(model.state_dict(), places)


def first_stage(model):
    """The names of LDM's `AutoencoderKL` and `VQModel`, of diffusers' of the same names."""
    levels = len(model.config.block_out_channels)
    places = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv", "quantize": "quantize"}
    for side in ("encoder", "decoder"):
        places |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
        places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        places |= {f"{side}.mid_block.resnets.{n}": f"{side}.mid.block_{n + 1}" for n in (0, 1)}
        places[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
    for level in range(levels):
        for number in range(3):
            places[f"encoder.down_blocks.{level}.resnets.{number}"] = f"encoder.down.{level}.block.{number}"
            up = f"decoder.up_blocks.{levels - 1 - level}"
            places[f"{up}.resnets.{number}"] = f"decoder.up.{level}.block.{number}"
        places[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        places[f"{up}.upsamplers.0.conv"] = f"decoder.up.{level}.upsample.conv"
    inside = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    state = {}
    for name, tensor in _moved(model.state_dict(), places).items():
        name = name.replace("conv_shortcut", "nin_shortcut")
        for a, b in inside.items():
            if f".attn_1.{a}." in name:
                name = name.replace(f".{a}.", f".{b}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[name] = tensor
    return {**state, "loss.logvar": torch.zeros(())}


def bert(model):
    """The names of `BERTEmbedder`, of an `LDMBertModel`."""
    places = {
        "model.embed_tokens": "transformer.token_emb",
        "model.embed_positions": "transformer.pos_emb.emb",
        "model.layer_norm": "transformer.norm",
        "to_logits": "transformer.to_logits",
    }
    for block in range(model.config.encoder_layers):
        here, (attention, mlp) = f"model.layers.{block}", (2 * block, 2 * block + 1)
        there = "transformer.attn_layers.layers"
        places[f"{here}.self_attn_layer_norm"] = f"{there}.{attention}.0"
        places |= {f"{here}.self_attn.{x}_proj": f"{there}.{attention}.1.to_{x}" for x in ("q", "k", "v", "out")}
        places[f"{here}.final_layer_norm"] = f"{there}.{mlp}.0"
        places |= {f"{here}.fc1": f"{there}.{mlp}.1.net.0.0", f"{here}.fc2": f"{there}.{mlp}.1.net.2"}
    return _moved(model.state_dict(), places)


def clip(model):
    """The names of Stable Diffusion 1's `FrozenCLIPEmbedder`, of a `CLIPTextModel`."""
    whole = {f"transformer.text_model.{name.removeprefix('text_model.')}": v for name, v in model.state_dict().items()}
    return {**whole, "transformer.text_model.embeddings.position_ids": torch.arange(8)[None]}


def open_clip(model):
    """The names of Stable Diffusion 2's `FrozenOpenCLIPEmbedder`, of a `CLIPTextModel` without the last layer."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    found = {
        "model.token_embedding.weight": state["embeddings.token_embedding.weight"],
        "model.positional_embedding": state["embeddings.position_embedding.weight"],
        "model.text_projection": torch.eye(64),
        "model.logit_scale": torch.ones(()),
    }
    inside = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for end in ("weight", "bias"):
        found[f"model.ln_final.{end}"] = state[f"final_layer_norm.{end}"]
        for block in range(model.config.num_hidden_layers + 1):
            here = f"encoder.layers.{min(block, model.config.num_hidden_layers - 1)}"  # one more, which has no effect
            there = f"model.transformer.resblocks.{block}"
            found |= {f"{there}.{b}.{end}": state[f"{here}.{a}.{end}"] for a, b in inside.items()}
            found[f"{there}.attn.out_proj.{end}"] = state[f"{here}.self_attn.out_proj.{end}"]
            found[f"{there}.attn.in_proj_{end}"] = torch.cat([state[f"{here}.self_attn.{x}_proj.{end}"] for x in "qkv"])
    return found


def checkpoint(network, codec, condition=None, **others):
    """The content of a `.ckpt` of the parts' states, with what else LDM keeps there."""
    state = {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in network.items()},
        **{f"first_stage_model.{name}": tensor for name, tensor in codec.items()},
        **{f"cond_stage_model.{name}": tensor for name, tensor in (condition or {}).items()},
        "betas": torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square(),
        "logvar": torch.zeros(1000),
        **others,
    }
    return {"state_dict": state, "global_step": 3, "epoch": 0, "callbacks": {}}


def averages(network, factor):
    """`model_ema.*` of a network, all weights times a factor."""
    found = {f"model_ema.diffusion_model{name.replace('.', '')}": value * factor for name, value in network.items()}
    return {**found, "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
