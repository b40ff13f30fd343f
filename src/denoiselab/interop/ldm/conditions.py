"""What the denoisers in CompVis' checkpoints are conditioned on, as our conditioners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.interop.config_nodes import Node, combined, inpainting, node
from denoiselab.interop.imported import target
from denoiselab.interop.ldm.clip import clip, open_clip
from denoiselab.interop.ldm.token_encoder import token_encoder
from denoiselab.interop.weights.files import TOKENIZER_FILES, local
from denoiselab.interop.weights.folders import copy_tokenizer, write_model
from denoiselab.interop.weights.state_dicts import InteropError, State

_STEM = "input_blocks.0.0.weight"

# Ids on the hub of the tokenizers with which the released text encoders were trained.
_TOKENIZERS = {
    "LDMTextEncoder": "google-bert/bert-base-uncased",
    "quick_gelu": "openai/clip-vit-large-patch14",
    "gelu": "stabilityai/stable-diffusion-2-base",
}


class Found(NamedTuple):
    """A conditioner.

    Attributes:
        node: Its configuration; `path` of a text encoder is set when it has been written.
        written: Places of frozen models in the model's configuration, to what writes them to a folder.
    """

    node: Node
    written: dict[str, Callable[[Path], None]]


def conditioner_of(
    condition: State, options: dict[str, Any], image_shape: Sequence[int], where: Path, tokenizer: str | None
) -> Found:
    """The conditioner of a network.

    Args:
        condition: The state of the conditioning's encoder, without the prefix `cond_stage_model.`.
        options: Of the network.
        image_shape: Shape (C, H, W) in pixels.
        where: The file.
        tokenizer: As in `Checkpoint`.
    """
    if options.get("class_token"):
        null = options["null_class"]
        return Found(
            node(
                "denoiselab.conditioners.ClassLabel",
                num_classes=options["num_classes"],
                null_class=null,
                dropout=0.1 if null else 0.0,
            ),
            {},
        )
    parts: dict[str, Node] = {}
    written: dict[str, Callable[[Path], None]] = {}
    if options.get("token_features") is not None:
        parts["text"], write = _text(condition, options["token_features"], where, tokenizer)
    channels = options["image_channels"]
    if channels is not None:
        parts["image"] = _image(condition, channels, options["shape"], image_shape, where, hybrid="text" in parts)
    if "text" in parts:
        place = "conditioner.parts.text.encoder" if len(parts) > 1 else "conditioner.encoder"
        written[place] = write
    return Found(combined(parts), written)


def with_maps(network: State, condition: State, where: Path) -> State:
    """The network's state with `SpatialRescaler`, which is linear, as a part of the first convolution.

    Args:
        network: Without the prefix `model.diffusion_model.`.
        condition: As in `conditioner_of`.
        where: The file.
    """
    mapper, stem = condition.get("channel_mapper.weight"), network.get(_STEM)
    if mapper is None or stem is None:
        return network
    latents = stem.shape[1] - mapper.shape[0]
    if mapper.ndim != 4 or mapper.shape[2:] != (1, 1) or latents < 1 or "channel_mapper.bias" in condition:
        raise InteropError(f"{where}: its rescaler of semantic maps is not supported: it must be a matrix, no bias.")
    own = torch.einsum("ochw,ck->okhw", stem[:, latents:], mapper[:, :, 0, 0].to(stem))
    return {**network, _STEM: torch.cat((stem[:, :latents], own), dim=1)}


def _text(condition: State, features: int, where: Path, tokenizer: str | None) -> tuple[Node, Callable[[Path], None]]:
    """The node of the text encoder, and what writes it to a folder."""
    if "transformer.token_emb.weight" in condition:
        state = _below(condition, "transformer.")
        layout = token_encoder(state, where)
        kind, options, weights = "LDMTextEncoder", dict(layout.options), layout.to_ours(state, where)
        width, words = options["width"], _tokenizer(tokenizer, _TOKENIZERS[kind])
        write = partial(_write, target(layout.module), options, weights, words)
        encoder = node(f"denoiselab.frozen.{kind}", path="")
    else:
        is_clip = any(name.startswith("transformer.text_model.") for name in condition)
        is_open = "model.ln_final.weight" in condition
        if not is_clip and not is_open:
            raise InteropError(
                f"{where}: its network attends to the tokens of a text, and no text encoder in it is known; known are "
                "BERTEmbedder's, CLIP's and open_clip's."
            )
        if is_clip:
            options, weights = clip(_below(condition, "transformer."), where)
        else:
            options, weights = open_clip(_below(condition, "model."), where)
        width, words = options["hidden_size"], _tokenizer(tokenizer, _TOKENIZERS[options["hidden_act"]])
        write = partial(_write, None, options, weights, words)
        length = options["max_position_embeddings"]
        encoder = node("denoiselab.frozen.TextEncoder", path="", length=length, masked=False)
    if width != features:
        raise InteropError(f"{where}: its texts' tokens have {width} features, and the network takes {features}.")
    return node("denoiselab.conditioners.Text", encoder=encoder), write


def _image(
    condition: State, channels: int, latents: Sequence[int], shape: Sequence[int], where: Path, *, hybrid: bool
) -> Node:
    """The node of what is concatenated to the latents."""
    mapper, own = (
        condition.get("channel_mapper.weight"),
        dict[str, Any](shape=list(shape), factor=shape[1] // latents[1]),
    )
    if mapper is not None:
        return node("denoiselab.conditioners.SemanticMap", classes=mapper.shape[1], **own)
    if channels == latents[0] + 1:  # Stable Diffusion's mask comes first; LDM's last, and in [-1, 1] as its images
        return inpainting(shape) if hybrid else inpainting(shape, mask_first=False, hidden=-1.0, known=-1.0)
    if channels == shape[0] and not condition:
        return node("denoiselab.conditioners.LowResolution", **own)
    raise InteropError(
        f"{where}: beside the latents its network takes {channels} channels, for which there is no conditioner."
    )


def _tokenizer(given: str | None, published: str) -> Path:
    """The folder of the tokenizer."""
    try:
        found = local(given or published, patterns=TOKENIZER_FILES)
    except InteropError as error:
        which = f"import.tokenizer={given}" if given else "import.tokenizer=null"
        raise InteropError(
            f"{which}: a checkpoint has no tokenizer; give the folder of the text encoder's, which is {published}: "
            f"{error}"
        ) from None
    inside = found / "tokenizer"
    folder = inside if inside.is_dir() else found
    if not (folder / "tokenizer_config.json").is_file():
        raise InteropError(f"import.tokenizer={given or published}: {folder} has no tokenizer_config.json.")
    return folder


def _write(kind: str | None, options: dict[str, Any], weights: dict[str, Tensor], words: Path, folder: Path) -> None:
    write_model(folder, kind, options, weights)
    copy_tokenizer(words, folder)


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
