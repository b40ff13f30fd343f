"""Class labels as conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.conditioners.base import Clean, Conditioner
from denoiselab.networks.checks import check_dropout
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class ClassLabel(Conditioner):
    """The class as `class_label` `(B,)` int64; index `num_classes` is the null class, if there is one.

    Args:
        num_classes: Number of classes.
        dropout: Probability of the null class in training (Ho and Salimans, Classifier-Free Diffusion Guidance,
            arXiv 2207.12598, algorithm 1).
        null_class: Whether the network has one.
        classes: Of generated samples, in turn; None for all.
        guided_channels: Classifier-free guidance acts on the first so many channels; None for all.

    Raises:
        ValueError: If a value is out of range, or `dropout` is not 0 without a null class.
    """

    names = frozenset({"class_label"})
    uses_images = False
    network_options: Mapping[str, str] = {"num_classes": "classes"}

    def __init__(
        self,
        num_classes: int,
        dropout: float = 0.1,
        null_class: bool = True,
        classes: Sequence[int] | None = None,
        guided_channels: int | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: it must be at least 1.")
        check_dropout(dropout)
        if dropout and not null_class:
            raise ValueError(f"dropout={dropout}: it must be 0 where there is no null class.")
        if classes is not None and (not classes or not all(0 <= label < num_classes for label in classes)):
            raise ValueError(f"classes={list(classes)}: at least one is needed, from 0 to {num_classes - 1}.")
        if guided_channels is not None and guided_channels < 1:
            raise ValueError(f"guided_channels={guided_channels}: it must be at least 1, or null for all.")
        self.num_classes, self.dropout, self.null_class = num_classes, dropout, null_class
        self.guided_channels = guided_channels
        self.classes = torch.arange(num_classes) if classes is None else torch.tensor(classes)
        self.strata = len(self.classes)

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        return Conditioning(class_label=torch.where(noise.uniform() < self.dropout, self.num_classes, clean.labels))

    def given(self, clean: Clean) -> Conditioning:
        return Conditioning(class_label=clean.labels)

    def of(self, values: Any, device: torch.device) -> Conditioning:
        try:
            labels = torch.as_tensor(values, device=device)
        except (TypeError, ValueError):  # of texts
            labels = torch.empty(0)
        whole = labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
        if not whole or bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise ValueError(f"cond={values!r}: classes are whole numbers from 0 to {self.num_classes - 1}.")
        return Conditioning(class_label=labels.long())

    def check(self, cond: Conditioning) -> None:
        labels = cond.class_label
        if labels is None:
            return
        highest = self.num_classes - (not self.null_class)
        if labels.dtype != torch.int64 or labels.ndim != 1 or bool(((labels < 0) | (labels > highest)).any()):
            null = " (the last is the null class)" if self.null_class else ""
            raise ValueError(f"cond.class_label: it must be (B,) int64, with classes from 0 to {highest}{null}.")

    def sample(self, index: Tensor) -> Conditioning:
        return Conditioning(class_label=self.classes.to(index.device)[index % len(self.classes)])

    def described(self, index: Tensor) -> list[str]:
        return [str(label) for label in self.classes[index.cpu() % len(self.classes)].tolist()]

    def null(self, index: Tensor) -> Conditioning:
        if not self.null_class:
            return Conditioning()
        return Conditioning(class_label=torch.full_like(index, self.num_classes))
