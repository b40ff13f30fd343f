"""Folders of frozen models: autoencoders and text encoders in our own format, tokenizers of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from denoiselab.files import atomic, write_text

# Of our own format: these weights beside a `config.json` with the class and its options.
MODEL = "model.safetensors"

# Files of a tokenizer, as transformers writes and the hub stores them.
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt")


def write_model(folder: Path, target: str | None, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write a model to a new folder.

    Args:
        folder: The folder.
        target: Its class, in our own format; None if the options are the configuration of another library.
        options: Arguments of its constructor, plain containers.
        state: Its weights.
    """
    content = dict(options) if target is None else {"_target_": target, **options}
    write_text(folder / "config.json", json.dumps(content))
    with atomic(folder / MODEL) as file:
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}, {"format": "pt"}))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer to another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted({file for pattern in TOKENIZER for file in source.glob(pattern)}):
        shutil.copyfile(file, folder / file.name)
