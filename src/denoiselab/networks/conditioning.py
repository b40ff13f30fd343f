"""What a network is told beside the noisy batch and its time label: one object, the same for all networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

# Without them a network knows what is meant: all tokens count; nothing was augmented.
OPTIONAL = frozenset({"mask", "augmentation"})


class Conditioning(NamedTuple):
    """The condition of each sample of a batch; a field that is None is not given.

    A network names the fields it takes in its attribute `conditioning`, a frozen set, and refuses all others.

    Args:
        class_label: `(B,)` int64, a class; one index may stand for no class.
        vector: `(B, D)`, continuous features of any meaning.
        tokens: `(B, L, D)`, a sequence of features, such as a text's.
        mask: `(B, L)` bool, True where a token counts; None: all do.
        image: `(B, C', H', W')`, concatenated to the input: a smaller one is resized to it, a mask and a known part
            stand in channels.
        augmentation: `(B, A)`, how the clean batch was augmented; zeros, and None, for not at all.
    """

    class_label: Tensor | None = None
    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    augmentation: Tensor | None = None


def taken(**sizes: int | None) -> frozenset[str]:
    """The fields that a network takes: those that have a size."""
    return frozenset(name for name, size in sizes.items() if size is not None)


def check_conditioning(cond: Conditioning, takes: Iterable[str]) -> None:
    """Refuse what a network does not take, and the lack of what it needs.

    Raises:
        ValueError: A field is given that is not among `takes`, or is among them, not optional and not given.
    """
    for name, value in zip(Conditioning._fields, cond, strict=True):
        if value is not None and name not in takes:
            raise ValueError(f"conditioning: the network does not take {name}; it takes {listed(takes)}.")
        if value is None and name in takes and name not in OPTIONAL:
            raise ValueError(f"conditioning: the network needs {name}, which was not given.")


def listed(names: Iterable[str]) -> str:
    """The names in words."""
    return ", ".join(sorted(names)) or "nothing"
