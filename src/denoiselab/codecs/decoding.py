"""Decoding within a given memory: its peak is counted without computing anything, and large images are tiled."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Sides of tiles, in latents, are multiples of it, so that a fourth of them is whole, too.
_UNIT = 8

# What a process takes for tensors of a size: measured up to 1.9 times as much, as its heap gets holes (tensors of more
# than 32 MB are apart from it), and some bytes that libraries keep.
_HOLES, _KEPT = 2, 16_000_000


class _Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at a time, except those given."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        for tensor in found:
            self._count(tensor)
        # Convolutions reorder their input and their result, or unfold the former: about as much again.
        work = 0
        if func is torch.ops.aten.convolution.default:
            work = sum(tensor.nbytes for tensor in (args[0], *found))
        self.peak = max(self.peak, self.live + work)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.live += size
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@torch.no_grad()
def peak_memory(module: nn.Module, shape: Sequence[int], count: int = 1) -> int:
    """Bytes that `module.decode` needs at once for latents `(count, *shape)` in float32, besides the weights.

    All tensors that are alive are counted, and as working memory of each convolution its input and output once more.
    """
    memo: dict[int, Any] = {}
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    skeleton: Any = copy.deepcopy(module, memo)
    latents = torch.empty(count, *shape, device="meta")
    with _Peak((latents, *skeleton.parameters(), *skeleton.buffers())) as counted:
        skeleton.decode(latents)
    return int(counted.peak + latents.nbytes)


class Bound(NamedTuple):
    """How latents are decoded within a memory.

    Attributes:
        memory: In bytes, without what libraries keep for themselves.
        one: Bytes that one image, or one tile, takes.
        more: Bytes that each further one takes.
        side: Of a square tile, in latents; None for whole images.
    """

    memory: float
    one: int
    more: int
    side: int | None

    def count(self, results: int) -> int:
        """How many images are decoded at a time, at least 1, where all results take so many bytes."""
        return max(1, 1 + int((self.memory - results - self.one) // max(1, self.more)))


def bound(module: nn.Module, shape: Sequence[int], memory: float) -> Bound:
    """How `module` decodes latents of `shape` (Z, h, w) within `memory` bytes: whole if it can, else in tiles.

    Raises:
        ValueError: If the smallest tile needs more.
    """
    available, size, side = memory - _KEPT, tuple(shape), None
    one = _HOLES * peak_memory(module, size)
    if one > available:
        side = _tile(module, size, available, memory)
        size = (size[0], min(side, size[1]), min(side, size[2]))
        one = _HOLES * peak_memory(module, size)
    return Bound(available, one, _HOLES * peak_memory(module, size, 2) - one, side)


def _tile(module: nn.Module, shape: Sequence[int], available: float, memory: float) -> int:
    """The largest side of a tile that can be decoded."""
    side = 0
    while (least := _HOLES * peak_memory(module, (shape[0], side + _UNIT, side + _UNIT))) <= available:
        side += _UNIT
        if side >= max(shape[1:]):
            break
    if not side:
        raise ValueError(
            f"decode_memory={memory / 1e9:g}: a tile of {_UNIT}x{_UNIT} latents needs {(least + _KEPT) / 1e9:.2g} GB; "
            "give at least that."
        )
    return side


def tiled(decode: Callable[[Tensor], Tensor], latents: Tensor, side: int) -> Tensor:
    """Images of latents `(B, Z, h, w)`, decoded in tiles of `side` x `side` that overlap by a fourth.

    Where tiles overlap they are blended by a cosine. Group norms and attention see a tile instead of the whole, so
    images differ from those decoded at once.

    Args:
        decode: Latents `(B, Z, a, b)` to images `(B, C, f a, f b)`.
        latents: To decode.
        side: Of a tile; a multiple of 4.
    """
    height, width = latents.shape[2:]
    rows, columns = (_starts(size, side) for size in (height, width))
    out = total = torch.empty(0)
    for y, x in itertools.product(rows, columns):
        part = decode(latents[:, :, y : y + side, x : x + side])
        factor = part.shape[-1] // min(side, width - x)
        if not out.numel():
            out = part.new_zeros(*part.shape[:2], factor * height, factor * width)
            total = part.new_zeros(factor * height, factor * width)
        ramp = factor * side // 4
        weights = [
            _window(size, ramp, start > 0, start + side < whole).to(part)
            for size, start, whole in zip(part.shape[2:], (y, x), (height, width), strict=True)
        ]
        weight = weights[0][:, None] * weights[1]
        place = (slice(factor * y, factor * y + part.shape[2]), slice(factor * x, factor * x + part.shape[3]))
        out[:, :, *place] += weight * part
        total[place] += weight
    return out / total


def _starts(size: int, side: int) -> list[int]:
    """Where tiles begin; the last ends at the edge."""
    if size <= side:
        return [0]
    step = side - side // 4
    return [*range(0, size - side, step), size - side]


def _window(size: int, ramp: int, before: bool, after: bool) -> Tensor:
    """Weights of a tile's rows: they rise by a cosine from each edge where another tile overlaps."""
    weight = torch.ones(size)
    rise = (1 - torch.cos(math.pi * (torch.arange(ramp) + 0.5) / ramp)) / 2
    if before:
        weight[:ramp] *= rise
    if after:
        weight[-ramp:] *= rise.flip(0)
    return weight
