"""Reading weights: safetensors, torch files of plain tensors, JSON, folders of diffusers, the hub.

No code from a file is run.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from denoiselab.files import packed_member, sha256_of, zip_is_whole
from denoiselab.interop.weights.state_dicts import InteropError, State

WEIGHTS = "diffusion_pytorch_model"  # diffusers' name of files of weights, without suffix

# `diffusion_pytorch_model.fp16.safetensors`, and of shards `diffusion_pytorch_model.safetensors.index.fp16.json`.
_VARIANT = re.compile(
    rf"{WEIGHTS}\.(?!safetensors|bin)([\w-]+)\.(?:safetensors|bin)"
    rf"|{WEIGHTS}\.(?:safetensors|bin)\.index\.([\w-]+)\.json"
)

# Files on the hub of a pipeline, and of a tokenizer.
_PIPELINE_FILES = (
    *(f"*{suffix}" for suffix in (".json", f"{WEIGHTS}*.safetensors", f"{WEIGHTS}*.bin")),
    *(f"{part}/{name}" for part in ("text_encoder", "bert") for name in ("model*.safetensors", "pytorch_model*.bin")),
    *(f"tokenizer/*{end}" for end in (".txt", ".model")),
)
TOKENIZER_FILES = tuple(
    f"{place}{name}"
    for place in ("", "tokenizer/")
    for name in ("tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt")
)

_log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InteropError(f"{path}: there is no such file.") from None
    except (OSError, RecursionError, ValueError):
        raise InteropError(f"{path}: damaged, or not JSON.") from None
    if not isinstance(content, dict):
        raise InteropError(f"{path}: not a JSON object.")
    return content


def read_safetensors(path: Path) -> State:
    """The tensors of a safetensors file, on the CPU."""
    _check_file(path)
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError, ValueError):
        raise InteropError(f"{path}: damaged or truncated, or not a safetensors file.") from None


def read_torch(path: Path) -> Any:
    """The content of a file of `torch.save`, if it is tensors in plain containers, on the CPU."""
    _check_file(path)
    if packed := packed_member(path):
        raise InteropError(f"{path}: its {packed} is compressed, unlike in files of torch; it is not loaded.")
    if zipfile.is_zipfile(path) and not zip_is_whole(path):
        raise _damaged(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class|global:?) ([\w.]+\.\w+)", str(error))
        if named is None:
            raise _damaged(path) from None
        raise InteropError(
            f"{path}: contains pickled objects ({named[1]}), which could run code; it is not loaded."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, struct.error):
        raise _damaged(path) from None


def read_tensors(path: Path) -> State:
    """Names to tensors, from a `.safetensors` file or a file of torch."""
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    return as_state(state, path)


def as_state(value: Any, where: Path, what: str = "weights") -> State:
    """`value` as names to tensors, without the `module.` of DataParallel."""
    plain = isinstance(value, Mapping) and value
    if not plain or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        raise InteropError(f"{where}: not a file of {what}: it contains no mapping of names to tensors.")
    if all(name.startswith("module.") for name in value):
        return {name.removeprefix("module."): tensor for name, tensor in value.items()}
    return dict(value)


def weights_file(folder: Path, variant: str | None = None) -> Path:
    """The file of weights, or the index of their files, in a model folder of diffusers.

    `variant` is part of their names, such as `fp16` or `non_ema`.
    """
    middle = f".{variant}" if variant else ""
    names = [
        f"{WEIGHTS}{middle}.safetensors",
        f"{WEIGHTS}.safetensors.index{middle}.json",
        f"{WEIGHTS}{middle}.bin",
        f"{WEIGHTS}.bin.index{middle}.json",
    ]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    matches = (_VARIANT.fullmatch(path.name) for path in folder.glob(f"{WEIGHTS}*"))
    found = {match[1] or match[2] for match in matches if match}
    others = sorted(name for name in found if not re.search(r"-\d+-of-\d+$", name))  # shards of an index
    if variant is None and len(others) == 1:
        _log.warning("%s has only weights of the variant %s; these are read", folder, others[0])
        return weights_file(folder, others[0])
    there = f"; it has the variants {', '.join(others)}: set import.variant" if others else ""
    raise InteropError(f"{folder}: has no weights; expected is {names[0]} or {names[2]}{there}.")


def read_weights(path: Path) -> State:
    """Names to tensors, from one file or from all files of an index."""
    if path.suffix != ".json":
        return read_tensors(path)
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict):
        raise InteropError(f"{path}: has no 'weight_map'.")
    state: State = {}
    for name in sorted(set(map(str, places.values()))):
        if Path(name).name != name:
            raise InteropError(f"{path}: lists a file in another folder, '{name}'.")
        state.update(read_tensors(path.parent / name))
    for name in places:
        if name not in state:
            raise InteropError(f"{path}: none of its files contains '{name}'.")
    return state


def local(path: str, revision: str | None = None, patterns: Sequence[str] | None = None) -> Path:
    """The folder or file `path`; else a copy of the hub's repository of that id, at a branch, tag or commit.

    Args:
        path: Of the folder or file, or the id.
        revision: On the hub.
        patterns: Of the repository's files; None for those of a pipeline of diffusers.
    """
    here = Path(path).expanduser()
    if here.exists():
        return here
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise InteropError(f"{path}: there is no such folder or file.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise InteropError(
            f"{path}: there is no such folder; to download it from the hub, pip install denoiselab[hub]."
        ) from None
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns or _PIPELINE_FILES)))
    except RepositoryNotFoundError:
        raise InteropError(f"{path}: there is no such folder, nor such a repository on the hub.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        raise InteropError(
            f"{path}: there is no such folder, and the hub cannot be reached; download it on a machine with a network, "
            "and give the folder."
        ) from None


def _check_file(path: Path) -> None:
    """Check that a file exists and, in the hub's cache, that it has the hash in its name."""
    if not path.is_file():
        raise InteropError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}.")
    blob = path.resolve()  # the cache names large files by their sha256 and links to them
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
        raise InteropError(f"{path}: damaged: its sha256 is not the hub's; delete {blob} and download it again.")


def _damaged(path: Path) -> InteropError:
    return InteropError(f"{path}: damaged or truncated, or not a file of torch.")
