"""The conditions passed to a network with the noisy batch and its time label; one type for all networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

# Fields that need not be given: then all tokens count, and nothing was augmented.
OPTIONAL = frozenset({"mask", "augmentation"})


class Conditioning(NamedTuple):
    """The condition of each sample of a batch; None for fields that are not given.

    A network lists the fields that it takes in its attribute `conditioning`, a frozen set.

    Attributes:
        class_label: `(B,)` int64; one index may be the null class.
        vector: `(B, D)`, continuous features.
        tokens: `(B, L, D)`, a sequence of features, such as a text's.
        mask: `(B, L)` bool, True where a token counts; None if all do.
        image: `(B, C', H', W')`, resized to the input and concatenated to it.
        augmentation: `(B, A)`, the augmentation of the clean batch; zeros or None for none.
    """

    class_label: Tensor | None = None
    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    augmentation: Tensor | None = None

    def filled(self, other: Conditioning) -> Conditioning:
        """A null condition with the fields of the condition `other` that it does not replace; without any, as it is."""
        if all(field is None for field in self):
            return self
        return Conditioning(*(b if a is None else a for a, b in zip(self, other, strict=True)))


def taken(**sizes: int | None) -> frozenset[str]:
    """The names of sizes that are not None."""
    return frozenset(name for name, size in sizes.items() if size is not None)


def check_conditioning(cond: Conditioning, takes: Iterable[str]) -> None:
    """Check that the fields given are those that a network takes.

    Raises:
        ValueError: If a field is given that is not in `takes`, or one in `takes` is not given, unless optional.
    """
    for name, value in zip(Conditioning._fields, cond, strict=True):
        if value is not None and name not in takes:
            raise ValueError(f"conditioning: the network does not take {name}; it takes {listed(takes)}.")
        if value is None and name in takes and name not in OPTIONAL:
            raise ValueError(f"conditioning: the network needs {name}, which was not given.")


def listed(names: Iterable[str]) -> str:
    """The names in alphabetical order, or "nothing"."""
    return ", ".join(sorted(names)) or "nothing"
