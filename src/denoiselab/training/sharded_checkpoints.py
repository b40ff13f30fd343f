"""Checkpoints of sharded trainings: a directory to which each rank writes its part, by torch's distributed checkpoints.

It holds safetensors of each rank with the places of its parts, `rest.pt` (a checkpoint of format 1 without these), and
`manifest.json` with the SHA-256 of each file, written last. Torch's default format has pickles, which run code.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.files import MANIFEST, atomic, put, read_json, remove, sha256_of, write_json, zip_is_whole
from denoiselab.training.sharded_tensors import is_sharded, spread, whole

REST = "rest.pt"

# Where the tensors of a checkpoint are that go to the files of ranks.
_PARTS: tuple[tuple[str, ...], ...] = (("state_dict",), ("optimizer_states",), ("denoiselab", "ema"))

_FORMAT = 1

Place = Sequence[Any]


class BrokenError(ValueError):
    """What is wrong with a directory, without its path."""


def parameter_of(place: Place, ordered: Sequence[str]) -> str | None:
    """The name of the parameter, or buffer, that a tensor of a checkpoint belongs to; None for none.

    Args:
        place: Keys of the containers that hold it, the outermost first.
        ordered: Names of the optimizer's parameters, in its order.
    """
    match place:
        case ["state_dict", str(name)]:
            return name
        case ["denoiselab", "ema", _, str(name)]:
            return f"denoiser.{name}"
        case ["optimizer_states", 0, "state", int(number), key] if 0 <= number < len(ordered) and key != "step":
            return ordered[number]  # of which `step` is a number for the whole
    return None


def take_apart(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of weights, optimizer and averages, by their places as JSON, and the rest without them."""
    tensors: dict[str, Tensor] = {}

    def rest(value: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            made = {key: rest(one, (*place, key)) for key, one in items}
            if isinstance(value, list):
                return [*made.values()]
            return {key: one for key, one in made.items() if json.dumps((*place, key)) not in tensors}
        if isinstance(value, Tensor) and any(place[: len(part)] == part for part in _PARTS):
            tensors[json.dumps(place)] = value.detach()
        return value

    return tensors, rest(checkpoint, ())


def written(
    checkpoint: Mapping[str, Any], path: Path, keep: int, group: Any, is_number: Callable[[Place], bool], *, copy: bool
) -> Callable[[], None]:
    """A function that writes a checkpoint. All ranks make and call it together.

    Args:
        checkpoint: Of format 1, whose tensors are sharded, or equal on all ranks.
        path: Of the directory.
        keep: Keep the `keep` - 1 states before it, as `write_checkpoint` does.
        group: Of processes, for tensors on the CPU, which nothing else uses.
        is_number: Whether a tensor's parameter has an axis in a sharded training alone; such are stored without.
        copy: Copy the tensors now, so that the function may be called while the training goes on.
    """
    tensors, rest = take_apart(checkpoint)
    for name, tensor in tensors.items():
        if is_sharded(tensor) and is_number(json.loads(name)):
            tensors[name] = whole(tensor).reshape(()).clone()
        elif copy:
            tensors[name] = tensor.to("cpu", copy=True)
    return lambda: _write(tensors, rest, path, keep, group)


def _write(tensors: dict[str, Tensor], rest: dict[str, Any], path: Path, keep: int, group: Any) -> None:
    dcp, partial, first = _torch_checkpoints(), path.with_name(f".{path.name}.tmp"), dist.get_rank() == 0

    def make() -> None:
        if partial.exists():
            remove(partial)
        partial.mkdir(parents=True)

    def save() -> tuple[str, str] | None:
        writer = dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, process_group=group)
        own = next(iter(partial.glob(f"shard-{dist.get_rank() + 1:05d}-*")), None)
        return None if own is None else (own.name, sha256_of(own))

    together(make if first else None, path, group)
    sums = dict(one for one in together(save, path, group) if one)
    together((lambda: _finish(partial, path, keep, tensors, rest, sums)) if first else None, path, group)


def together(act: Callable[[], Any] | None, path: Path, group: Any) -> list[Any]:
    """What this rank does, nothing or something, and the results of all ranks; if one fails, all do.

    Raises:
        OSError: With the reason of the first rank that failed to write `path`.
    """
    try:
        own: tuple[bool, Any] = (True, None if act is None else act())
    except BaseException as error:  # torch's CheckpointException is no Exception
        failures = getattr(error, "failures", None)  # of which: rank to (exception, traceback)
        cause = next(iter(failures.values()))[0] if failures else error
        own = (False, " ".join(f"{getattr(cause, 'strerror', None) or cause}".split()))
    results: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(results, own, group)
    for good, result in results:
        if not good:
            raise OSError(f"{path}: cannot be written ({result})")
    return [result for _, result in results]


def _finish(
    partial: Path, path: Path, keep: int, tensors: Mapping[str, Tensor], rest: dict[str, Any], sums: dict[str, str]
) -> None:
    """Write the rest and the manifest, and give the directory its name."""
    with atomic(partial / REST) as file:
        torch.save(rest, file)
    sums[REST] = sha256_of(partial / REST)
    described = {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in tensors.items()}
    write_json(partial / MANIFEST, {"format": _FORMAT, "files": sums, "tensors": described})
    put(partial, path, [path.with_suffix(f".{number}{path.suffix}") for number in range(1, keep)])


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a directory, all of whose files were compared with it.

    Raises:
        BrokenError: If it is not as it was written.
    """
    if not (path / MANIFEST).is_file():
        raise BrokenError(f"it has no {MANIFEST}, so it was not written to the end")
    try:
        manifest = read_json(path / MANIFEST)
    except ValueError as error:
        raise BrokenError(f"its {MANIFEST} is {error}") from None
    if not _is_manifest(manifest):
        raise BrokenError(f"its {MANIFEST} is malformed")
    there, listed = {file.name for file in path.iterdir() if not file.name.startswith(".")}, manifest["files"]
    for name in sorted({*listed, MANIFEST} ^ there):
        raise BrokenError(f"it lacks {name}" if name in listed else f"{name} does not belong to it")
    for name, digest in listed.items():
        if (path / name).is_symlink() or not (path / name).is_file() or sha256_of(path / name) != digest:
            raise BrokenError(f"its {name} is damaged or truncated")
    return manifest


def _is_manifest(content: Mapping[str, Any]) -> bool:
    files, tensors = content.get("files"), content.get("tensors")
    if content.get("format") != _FORMAT or not isinstance(files, dict) or not isinstance(tensors, dict):
        return False
    named = all(isinstance(digest, str) and name == os.path.basename(name) for name, digest in files.items())  # noqa: PTH119
    return REST in files and named and all(_is_described(one) for one in tensors.items())


def _is_described(item: tuple[str, Any]) -> bool:
    name, of = item
    try:
        place = json.loads(name)
    except ValueError:
        return False
    dtype = getattr(torch, of[0], None) if isinstance(of, list) and of and isinstance(of[0], str) else None
    sizes = isinstance(dtype, torch.dtype) and all(type(size) is int and 0 <= size < 2**48 for size in of[1:])
    return sizes and isinstance(place, list) and len(place) > 1 and all(type(key) in (str, int) for key in place)


def read(path: Path, device: Any = "cpu", *, verified: bool = False) -> dict[str, Any]:
    """The checkpoint of format 1 in a directory, with whole tensors; no rank needs another for it.

    Args:
        path: Of the directory.
        device: Where tensors are put; on "meta" none is read, and they have shapes alone.
        verified: Whether `verify` has passed already.

    Raises:
        BrokenError: If it is not as it was written, or holds something else.
    """
    manifest = read_json(path / MANIFEST) if verified else verify(path)
    where = "meta" if str(device) == "meta" else "cpu"
    if where == "cpu":
        _check_cover(path, manifest["tensors"])
    tensors = {name: torch.empty(shape, dtype=dtype, device=where) for name, (dtype, shape) in _described(manifest)}
    if where == "cpu":
        _fill(path, tensors, None)
    return put_together({name: tensor.to(device) for name, tensor in tensors.items()}, _rest(path))


def read_sharded(path: Path, group: Any, like: Callable[[Place], Tensor | None]) -> dict[str, Any]:
    """As `read`, with each tensor spread as its parameter is, so that each rank reads its own part alone.

    Args:
        path: Of a directory that was verified.
        group: As in `write`.
        like: The parameter or buffer in training to which a tensor of a checkpoint belongs; None for none.
    """
    manifest = read_json(path / MANIFEST)
    _check_cover(path, manifest["tensors"])
    tensors: dict[str, Tensor] = {}
    for name, (dtype, shape) in _described(manifest):
        owner = like(json.loads(name))
        if owner is not None and is_sharded(owner) and [*owner.shape] == shape:
            tensors[name] = torch.empty_like(owner, dtype=dtype)
        else:
            tensors[name] = torch.empty(shape, dtype=dtype)
    _fill(path, tensors, group)
    found = {name: spread(tensor, like(json.loads(name))) for name, tensor in tensors.items()}
    return put_together(found, _rest(path))


def put_together(tensors: Mapping[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of its tensors by place, and the rest.

    Raises:
        BrokenError: If a place is not there.
    """
    for name, tensor in tensors.items():
        *path, last = json.loads(name)
        node: Any = rest
        try:
            for key in path:
                node = node[key]
            node[last] = tensor
        except (LookupError, TypeError):
            raise BrokenError(f"its {REST} has no place for {name}") from None
    return rest


def _described(manifest: Mapping[str, Any]) -> list[tuple[str, tuple[torch.dtype, list[int]]]]:
    return [(name, (getattr(torch, of[0]), of[1:])) for name, of in manifest["tensors"].items()]


def _rest(path: Path) -> dict[str, Any]:
    """The part that is no tensor of weights, optimizer or averages."""
    try:
        rest = torch.load(path / REST, map_location="cpu", weights_only=True) if zip_is_whole(path / REST) else None
    except Exception:  # a hostile pickle fails with any error
        rest = None
    if not isinstance(rest, dict):
        raise BrokenError(f"its {REST} is damaged, or holds something else")
    return rest


def _check_cover(path: Path, tensors: Mapping[str, Any]) -> None:
    """Check that the files hold each tensor once, with the shape of the manifest."""
    dcp = _torch_checkpoints()

    try:
        found = dcp.HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except Exception:  # of a hostile header
        raise BrokenError("its files of tensors are malformed") from None
    for name, (kind, *shape) in tensors.items():
        of: Any = found.get(name)
        if of is None or list(of.size) != shape or str(of.properties.dtype) != f"torch.{kind}":
            raise BrokenError(f"its files do not hold the tensor {name}")
        parts = [(chunk.offsets, chunk.sizes) for chunk in of.chunks]
        inside = all(
            start >= 0 and start + size <= end for part in parts for start, size, end in zip(*part, shape, strict=True)
        )
        if not inside or sum(math.prod(sizes) for _, sizes in parts) != math.prod(shape):
            raise BrokenError(f"its files hold a part of the tensor {name} alone")


def _fill(path: Path, tensors: dict[str, Tensor], group: Any) -> None:
    """Read the numbers of tensors, in place."""
    dcp = _torch_checkpoints()

    reader = dcp.HuggingFaceStorageReader(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the group of processes that a reader alone does not need
        dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)


def _torch_checkpoints() -> Any:
    """The package of torch, which takes a while to import."""
    import torch.distributed.checkpoint

    return torch.distributed.checkpoint
