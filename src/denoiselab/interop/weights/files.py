"""Reading the files of others: safetensors, torch files of tensors alone, JSON, folders of diffusers, the hub.

Nothing here runs code from a file.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from denoiselab.files import packed_member, sha256_of, zip_is_whole
from denoiselab.interop.weights.state_dicts import InteropError, State

# The names under which diffusers keeps the weights of a model, but for the suffix.
WEIGHTS = "diffusion_pytorch_model"


# `diffusion_pytorch_model.fp16.safetensors`, and of shards `diffusion_pytorch_model.safetensors.index.fp16.json`.
_VARIANT = re.compile(
    rf"{WEIGHTS}\.(?!safetensors|bin)([\w-]+)\.(?:safetensors|bin)"
    rf"|{WEIGHTS}\.(?:safetensors|bin)\.index\.([\w-]+)\.json"
)

_log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InteropError: It is missing, or is no such thing.
    """
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
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InteropError: It is missing, truncated, or no such file.
    """
    _check_file(path)
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError, ValueError):
        raise InteropError(f"{path}: damaged or truncated, or not a safetensors file.") from None


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, if it is tensors and plain containers alone, on the CPU.

    Raises:
        InteropError: It is missing, damaged, or holds pickled objects.
    """
    _check_file(path)
    if packed := packed_member(path):
        raise InteropError(f"{path}: its {packed} is compressed, which files of torch never are; it is not loaded.")
    if zipfile.is_zipfile(path) and not zip_is_whole(path):
        raise _damaged(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class|global:?) ([\w.]+\.\w+)", str(error))
        if named is None:
            raise _damaged(path) from None
        raise InteropError(
            f"{path}: holds pickled objects ({named[1]}), which could run code; it is not loaded."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, struct.error):
        raise _damaged(path) from None


def read_tensors(path: Path) -> State:
    """Names to tensors, from a `.safetensors` file or any file of torch.

    Raises:
        InteropError: It cannot be read, or is no such mapping.
    """
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    return as_state(state, path)


def as_state(value: Any, where: Path, what: str = "weights") -> State:
    """`value` as names to tensors, without the `module.` of DataParallel.

    Raises:
        InteropError: It is something else.
    """
    plain = isinstance(value, Mapping) and value
    if not plain or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        raise InteropError(f"{where}: not a file of {what}: it holds no mapping of names to tensors.")
    if all(name.startswith("module.") for name in value):
        return {name.removeprefix("module."): tensor for name, tensor in value.items()}
    return dict(value)


def weights_file(folder: Path, variant: str | None = None) -> Path:
    """The file, or index of files, with the weights of a model folder of diffusers.

    Args:
        folder: Where.
        variant: Another precision or kind of them, such as `fp16` or `non_ema`.

    Raises:
        InteropError: There is none.
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
    others = _variants(folder)
    if variant is None and len(others) == 1:
        _log.warning("%s holds weights of the variant %s alone, which are read", folder, others[0])
        return weights_file(folder, others[0])
    there = f"; of other variants there are {', '.join(others)}: give import.variant" if others else ""
    raise InteropError(f"{folder}: holds no weights; it should hold {names[0]} or {names[2]}{there}.")


def _variants(folder: Path) -> list[str]:
    """What stands for the variant in the names of files of weights."""
    matches = (_VARIANT.fullmatch(path.name) for path in folder.glob(f"{WEIGHTS}*"))
    found = {match[1] or match[2] for match in matches if match}
    return sorted(name for name in found if not re.search(r"-\d+-of-\d+$", name))  # of shards, which an index names


def read_weights(path: Path) -> State:
    """Names to tensors, from one file or from all that an index names.

    Raises:
        InteropError: One cannot be read, or lacks what the index says it has.
    """
    if path.suffix != ".json":
        return read_tensors(path)
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict):
        raise InteropError(f"{path}: has no 'weight_map'.")
    state: State = {}
    for name in sorted(set(map(str, places.values()))):
        if Path(name).name != name:
            raise InteropError(f"{path}: names a file elsewhere, '{name}'.")
        state.update(read_tensors(path.parent / name))
    for name in places:
        if name not in state:
            raise InteropError(f"{path}: none of its files holds '{name}'.")
    return state


def local(path: str, revision: str | None = None) -> Path:
    """The folder or file `path`; or, where there is none, a copy of the hub's repository of that id.

    Args:
        path: A path, or `owner/name`.
        revision: Branch, tag or commit on the hub.

    Raises:
        InteropError: There is neither.
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
            f"{path}: there is no such folder; to fetch it from the hub, install the extra: pip install "
            "denoiselab[hub]."
        ) from None
    patterns = [f"*{suffix}" for suffix in (".json", f"{WEIGHTS}*.safetensors", f"{WEIGHTS}*.bin")]
    patterns += [
        "text_encoder/model*.safetensors",
        "text_encoder/pytorch_model*.bin",
        *(f"tokenizer/*{end}" for end in (".txt", ".model")),
    ]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise InteropError(f"{path}: there is no such folder, nor such a repository on the hub.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        raise InteropError(
            f"{path}: there is no such folder, and the hub cannot be reached; fetch it where there is a network, and "
            "name the folder."
        ) from None


def _check_file(path: Path) -> None:
    """Refuse what is no file, and a file of the hub's cache that is not the one it is named after.

    Raises:
        InteropError: It is so.
    """
    if not path.is_file():
        raise InteropError(f"{path}: {'is a folder' if path.is_dir() else 'there is no such file'}.")
    blob = path.resolve()  # the cache names large files by their sha256, and links to them
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
        raise InteropError(f"{path}: damaged: its sha256 is not the hub's; remove {blob}, and fetch it again.")


def _damaged(path: Path) -> InteropError:
    return InteropError(f"{path}: damaged or truncated, or not a file of torch.")
