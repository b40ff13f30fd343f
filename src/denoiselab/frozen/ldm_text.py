"""LDM's text encoder from a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.conditioners import TokenEncoder
from denoiselab.frozen.folders import check_sha256, configuration, folder_of
from denoiselab.frozen.text_encoders import tokenized
from denoiselab.interop import InteropError
from denoiselab.interop.imported import target
from denoiselab.interop.ldm.token_encoder import ldm_bert, ldm_bert_config
from denoiselab.interop.weights.files import read_weights
from denoiselab.interop.weights.folders import copy_tokenizer, write_model
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import checked_state, making

_TARGET = target(TokenEncoder)


class LDMTextEncoder:
    """The text encoder of latent diffusion (`BERTEmbedder` there), frozen; tokens are not masked, as there.

    It is read at the first call.

    Args:
        path: The folder: in our own format, or `bert` of a pipeline of diffusers.
        tokenizer: The tokenizer's folder; None for the same or, as in a pipeline, `tokenizer` next to it.
        sha256: Of the folder's files; None for any.

    Raises:
        ValueError: If there is no such folder, it is no such encoder, or transformers is not installed.
    """

    masked = False

    def __init__(self, path: str, tokenizer: str | None = None, sha256: str | None = None) -> None:
        self.folder, self.sha256 = folder_of(path), sha256
        self._layout = _layout(self.folder)
        self.length, self.features = (int(self._layout.options[name]) for name in ("length", "width"))
        own = (self.folder / "tokenizer_config.json").is_file()
        default = self.folder if own else self.folder.parent / "tokenizer"
        self.tokenizer = default if tokenizer is None else Path(tokenizer).expanduser()
        if not (self.tokenizer / "tokenizer_config.json").is_file():
            raise ValueError(f"tokenizer={self.tokenizer}: there is no tokenizer_config.json; name its folder.")
        if importlib.util.find_spec("transformers") is None:
            raise ValueError(f"path={path}: text encoders need an extra: pip install denoiselab[text].")
        self._read: tuple[Any, Any] | None = None

    def load(self) -> None:
        """Read the weights and the tokenizer, unless they have been read.

        Raises:
            ValueError: If they cannot be read, have changed, or do not fit each other.
        """
        if self._read is not None:
            return
        check_sha256(self.folder, self.sha256)
        with torch.device("cpu"):
            model = self._layout.built(self._state()).requires_grad_(False)
            tokenizer = read_tokenizer(self.tokenizer)
        if len(tokenizer) > self._layout.options["vocabulary"]:
            raise ValueError(
                f"conditioner.encoder.path={self.folder}: it has {self._layout.options['vocabulary']} tokens, and its "
                f"tokenizer in {self.tokenizer} {len(tokenizer)}; it is another model's."
            )
        self._read = model, tokenizer

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features `(B, length, features)` float32, and which tokens count, `(B, length)` bool.

        Raises:
            ValueError: If the files cannot be read or have changed.
        """
        self.load()
        assert self._read is not None
        model, tokenizer = self._read
        device = torch.device("cpu") if device.type == "meta" else device
        features, masks = [], []
        with torch.device("cpu"), torch.autocast(device.type, enabled=False):
            for batch in tokenized(tokenizer, texts, self.length, device):
                features.append(model.to(device)(batch["input_ids"]).float())
                masks.append(batch["attention_mask"].bool())
        return torch.cat(features), torch.cat(masks)

    def write(self, folder: Path) -> None:
        """Write model and tokenizer to a folder, in our own format."""
        write_model(folder, _TARGET, self._layout.options, self._state())
        copy_tokenizer(self.tokenizer, folder)

    def write_parts(self, folder: Path) -> dict[str, str]:
        """Write model and tokenizer into a pipeline's folder, as diffusers has them; returns their classes by part."""
        self.load()
        assert self._read is not None
        config, layout = ldm_bert_config(self._layout.options)
        for name in ("bert", "tokenizer"):
            (folder / name).mkdir()
        write_model(folder / "bert", None, config, layout.to_theirs(self._state()))
        self._read[1].save_pretrained(folder / "tokenizer")
        return {"bert": "LDMBertModel", "tokenizer": type(self._read[1]).__name__}

    def _state(self) -> Mapping[str, Tensor]:
        file = next((self.folder / name for name in _WEIGHTS if (self.folder / name).is_file()), None)
        try:
            if file is None:
                raise InteropError(f"{self.folder}: has no weights; expected is {_WEIGHTS[0]}.")
            state = read_weights(file)
            if self._layout.entries:
                return self._layout.to_ours(state, file)
            return checked_state(self._layout.skeleton(), state, file)
        except InteropError as error:
            raise ValueError(f"conditioner.encoder.path={error}") from None


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of transformers in a folder.

    Raises:
        ValueError: If it cannot be read.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"conditioner.encoder.tokenizer={folder}: it cannot be read: {reason}") from None


def _layout(folder: Path) -> Layout:
    config, file = configuration(folder), folder / "config.json"
    ours = config.get("_target_") == _TARGET
    if not ours and config.get("model_type") != "ldmbert":
        raise ValueError(f"path={folder}: holds no text encoder of latent diffusion, ours or diffusers' LDMBertModel.")
    try:
        with making("text encoder", file):
            options = {key: value for key, value in config.items() if key != "_target_"}
            layout = Layout(TokenEncoder, options, ()) if ours else ldm_bert(config)
            layout.skeleton()
    except InteropError as error:
        raise ValueError(f"path={error}") from None
    return layout
