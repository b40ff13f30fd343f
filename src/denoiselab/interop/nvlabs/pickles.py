"""Command that converts networks in pickles to safetensors: of NVlabs (EDM, EDM2), with JSON, and Lightning's `.ckpt`.

    python -m denoiselab.interop.nvlabs.pickles --trust-pickle network.pkl folder
    python -m denoiselab.interop.nvlabs.pickles --trust-pickle model.ckpt folder

Loading a pickle the usual way runs code of its author; these even contain the source of their classes to be executed.
So no other module reads pickles, and this command needs `--trust-pickle`. It executes none of that source and calls
only functions that rebuild tensors, arrays and plain containers: objects of other classes become records of their
attributes, whose parameters and buffers are written with the arguments of the constructors. NVlabs' packages are not
needed.

Source of the format: `torch_utils/persistence.py` of NVlabs' repositories.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from denoiselab.cleaning import line
from denoiselab.files import atomic, new_folder, write_text
from denoiselab.interop.config_nodes import plain
from denoiselab.interop.weights.state_dicts import InteropError, State, making

MODEL, CONFIG = "model.safetensors", "config.json"


class Record:
    """An object as the name of its class and its attributes."""

    class_name = "object"

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, Mapping) else {})

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """The parameters and buffers of a module and of those in it, as `state_dict` names them."""
        attributes = self.__dict__
        hidden = attributes.get("_non_persistent_buffers_set") or ()
        for group in ("_parameters", "_buffers"):
            for name, tensor in attributes.get(group, {}).items():
                if isinstance(tensor, Tensor) and name not in hidden:
                    yield f"{prefix}{name}", tensor.detach()
        for name, module in attributes.get("_modules", {}).items():
            if isinstance(module, Record):
                yield from module.tensors(f"{prefix}{name}.")


def read_pickle(path: Path, *, trusted: bool) -> Any:
    """The content of a pickle, with records in place of objects."""
    if not trusted:
        raise InteropError(
            f"{path}: a pickle can run any code when it is loaded; add --trust-pickle if you trust its author."
        )
    try:
        if zipfile.is_zipfile(path):  # of torch.save
            module = SimpleNamespace(Unpickler=_Lenient, load=None, __name__="denoiselab")
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
        with path.open("rb") as file:
            return _Reader(file, path).load()
    except InteropError:
        raise
    except OSError as error:
        raise InteropError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except Exception:  # a pickle can fail in any way
        raise InteropError(f"{path}: damaged or truncated, or not a pickle.") from None


def convert(path: Path, out: Path, key: str | None = None, *, trusted: bool = False) -> None:
    """Write a network of a pickle as `model.safetensors` into a new folder, with `config.json` if it has arguments.

    Args:
        path: The pickle: a network, or a dictionary of networks.
        out: The folder, which must not exist.
        key: Of the network in the dictionary; None for `ema` of NVlabs' files, and `state_dict` of Lightning's.
        trusted: Whether the file may be loaded.

    Raises:
        InteropError: If it cannot be read, contains no such network, or `out` exists.
    """
    content = read_pickle(path, trusted=trusted)
    if isinstance(content, Mapping):
        key = key or ("state_dict" if "state_dict" in content else "ema")
        if key not in content:
            raise InteropError(f"{path}: has no '{key}'; it has: {', '.join(map(str, content))}.")
        content = content[key]
    with making("network", path):
        state, text = _state(content), _description(content)
        if not state:
            raise InteropError("it contains no network.")
        tensors = save({name: tensor.clone().contiguous() for name, tensor in state.items()})
    try:
        with new_folder(out) as partial:
            with atomic(partial / MODEL) as file:
                file.write(tensors)
            if text is not None:
                write_text(partial / CONFIG, text)
    except OSError as error:
        raise InteropError(f"{out}: cannot be written ({error.strerror or error}).") from None


def _state(content: Any) -> State:
    """The tensors of a network: of a record, or of a state dict."""
    if isinstance(content, Record):
        return dict(content.tensors())
    found = content if isinstance(content, Mapping) else {}
    return {str(name): tensor.detach() for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _description(content: Any) -> str | None:
    """The class and the arguments of a record, as JSON; None of a state dict."""
    if not isinstance(content, Record):
        return None
    attributes = content.__dict__
    description = {
        "class_name": content.class_name,
        "init_args": plain(list(attributes.get("_init_args") or ())),
        "init_kwargs": plain(dict(attributes.get("_init_kwargs") or {})),
    }
    return json.dumps(description, indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m denoiselab.interop.nvlabs.pickles",
        description="Writes a network of an EDM or EDM2 pickle, or of a checkpoint of Lightning, as model.safetensors "
        "into a new folder, which sample.py imports.",
    )
    parser.add_argument("file", type=Path, help="the pickle")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--key", help="which network of the pickle (default: ema, or state_dict of a checkpoint)")
    parser.add_argument("--trust-pickle", action="store_true", help="confirm that you trust the author of the file")
    options = parser.parse_args(arguments)
    try:
        convert(options.file, options.out, options.key, trusted=options.trust_pickle)
    except InteropError as error:
        sys.stderr.write(f"pickles: {line(error)}\n")
        return 2
    sys.stdout.write(f"{line(options.out)}\n")
    return 0


def _rebuilding(module: str, name: str) -> Any:
    """What replaces a name in a pickle that rebuilds data, or a dtype; None for another name."""
    if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
        return dtype
    return _KNOWN.get((module, name))


class _Reader(pickle.Unpickler):
    """An unpickler that calls only functions that rebuild data."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The object that replaces a name in the pickle."""
        if (known := _rebuilding(module, name)) is not None:
            return known
        if module.startswith("torch.nn.modules.") and "." not in name:
            return type(name, (Record,), {"class_name": name})
        raise InteropError(f"{self._path}: it imports {module}.{name}, which is not data; it is not loaded.")


class _Lenient(pickle.Unpickler):
    """An unpickler of files of torch, for which every class is a record: no code of a class is run."""

    def find_class(self, module: str, name: str) -> Any:
        """The object that replaces a name in the pickle."""
        if (known := _rebuilding(module, name)) is not None:
            return known
        if module in ("torch", "torch.storage") and name.endswith("Storage"):  # the kind of numbers
            return getattr(importlib.import_module(module), name)
        return type(name.rpartition(".")[2], (_Object,), {"class_name": name})


class _Object(Record):
    """A record of any class, built with any arguments."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Leave a value out."""


class _EasyDict(dict):  # type: ignore[type-arg]
    """NVlabs' dictionary, as a plain one."""

    def __setstate__(self, state: Any) -> None:
        self.update(state)


def _persistent(meta: Mapping[str, Any]) -> Record:
    """A record in place of an object whose class is defined in the pickle; the source is ignored."""
    record: Record = type(str(meta["class_name"]), (Record,), {"class_name": str(meta["class_name"])})()
    record.__setstate__(meta["state"])
    return record


def _storage(content: bytes) -> Any:
    """The numbers of a tensor, by torch's own safe reader."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    out: Tensor = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    return out


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.multiarray", name): getattr(importlib.import_module("numpy._core.multiarray"), name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}


if __name__ == "__main__":
    sys.exit(main())
