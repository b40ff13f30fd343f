"""Class labels as conditioning."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class Conditioner(Protocol):
    """Turns a batch's labels into the network's conditioning.

    Attributes:
        names: The fields it gives.
        strata: Sample i is conditioned as sample i mod strata is; 1 where samples are drawn independently.
    """

    names: frozenset[str]
    strata: int

    def train(self, labels: Tensor, noise: Noise) -> Conditioning:
        """Conditioning of a training batch with labels `(B,)` int64."""
        ...

    def sample(self, index: Tensor) -> Conditioning:
        """Conditioning of samples `index` `(B,)` int64: a function of the index alone."""
        ...

    def null(self, index: Tensor) -> Conditioning:
        """What stands for no condition, to classifier-free guidance, for samples `index` `(B,)` int64."""
        ...


class Unconditional:
    """No conditioning."""

    names: frozenset[str] = frozenset()
    strata = 1

    def train(self, labels: Tensor, noise: Noise) -> Conditioning:
        """No fields."""
        return Conditioning()

    def sample(self, index: Tensor) -> Conditioning:
        """No fields."""
        return Conditioning()

    def null(self, index: Tensor) -> Conditioning:
        """No fields."""
        return Conditioning()


class ClassLabel:
    """The class as `class_label` `(B,)` int64; index `num_classes` is the null class, where there is one.

    Args:
        num_classes: Number of classes.
        dropout: Probability of the null class in training (Ho and Salimans, Classifier-Free Diffusion Guidance,
            arXiv 2207.12598, algorithm 1).
        null_class: The network has one.

    Raises:
        ValueError: Unless num_classes >= 1 and 0 <= dropout < 1, and dropout = 0 without a null class.
    """

    names: frozenset[str] = frozenset({"class_label"})

    def __init__(self, num_classes: int, dropout: float = 0.1, null_class: bool = True) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: it must be at least 1.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: it must be at least 0 and less than 1.")
        if dropout and not null_class:
            raise ValueError(f"dropout={dropout}: it must be 0 where there is no null class.")
        self.num_classes, self.dropout, self.null_class = num_classes, dropout, null_class
        self.strata = num_classes

    def train(self, labels: Tensor, noise: Noise) -> Conditioning:
        """The labels, some of them replaced by the null class."""
        return Conditioning(class_label=torch.where(noise.uniform() < self.dropout, self.num_classes, labels))

    def sample(self, index: Tensor) -> Conditioning:
        """Sample i is of class i mod num_classes."""
        return Conditioning(class_label=index % self.num_classes)

    def null(self, index: Tensor) -> Conditioning:
        """The null class; nothing, where there is none."""
        if not self.null_class:
            return Conditioning()
        return Conditioning(class_label=torch.full_like(index, self.num_classes))
