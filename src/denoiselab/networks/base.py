"""The contract of networks, and what those of this package have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from denoiselab.networks.conditioning import Conditioning, check_conditioning

_LISTS = (nn.ModuleList, nn.ModuleDict)


class Network(Protocol):
    """What a `Denoiser` calls: an `nn.Module` of any class that maps noisy samples to an output of their shape.

    A network that takes conditions has an attribute `conditioning`, the frozen set of the fields of `Conditioning`
    that it takes; without the attribute it takes none. One that has a true attribute `second_time` is called with a
    fourth argument `(B,)`, at least float32: how far below this level the step ends, in the schedule's t.
    """

    def __call__(self, x: Tensor, label: Tensor, cond: Conditioning, /) -> Tensor:
        """Map noisy samples to the output that the parameterization interprets.

        Args:
            x: `(B, C, *)`, noisy samples, scaled by the denoiser's `input_scale`.
            label: `(B,)`, at least float32, the time labels of their noise levels.
            cond: The condition of each sample.

        Returns:
            `(B, outputs C, *)` in the dtype of `x`; `outputs` is 2 with a learned variance, else 1.
        """
        ...


class ClassifierNetwork(Protocol):
    """What a `NoisyClassifier` calls: an `nn.Module` of any class that maps noisy samples to logits."""

    def __call__(self, x: Tensor, label: Tensor, /) -> Tensor:
        """Map `x` `(B, C, *)` and the time labels `(B,)` of their noise levels to logits `(B, num_classes)`."""
        ...


class SharedOptions(nn.Module):
    """The options that the networks of this package share; each documents its own.

    Args:
        shape: Shape of a sample: (C, H, W) of an image or latent.
        channels: Channels of the first level, the unit of `multipliers`.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms; they divide the channels of each level.
        num_classes: Classes of `class_label`; None for none.
        null_class: Index `num_classes` stands for no class.
        vector_features: Features of `vector`; None for none.
        token_features: Features of `tokens`; None for no text.
        image_channels: Channels of `image`, which is resized to the input and concatenated to it; None for none.
        patch: Side of a patch of a transformer; it divides H and W.
        width: Features of a token or of a hidden layer; `heads` divide it.
        heads: Heads of each attention.
        mlp_ratio: Hidden features of the feed-forward layers, as a multiple of `width`.
        outputs: Channels of the output, in units of those of a sample; 2 with a learned variance.
        second_time: Also take the time to the end of the step, whose embedding starts as zero: for flow maps.
        checkpoint_levels: Levels or blocks, counted from 0, whose activations are computed again in the backward pass,
            which saves memory, or "all"; the middle of a UNet goes with its last level.

    Raises:
        ValueError: If `shape` has another number of dimensions, a value is out of range, or sizes do not divide each
            other.
    """


class ConditionalNetwork(SharedOptions):
    """The base of the networks of this package: called as a `Network`."""

    conditioning: frozenset[str]
    checkpoint_levels: frozenset[int]
    uses_label = True  # whether the output depends on the time label
    second_time = False

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        """Map `x` `(B, C, *)` and time labels `(B,)` to `(B, outputs C, *)`.

        A network that may have a second time takes it as `between` `(B,)`, where None stands for zeros.

        Raises:
            ValueError: If `cond` has a field that is not in `conditioning`, or lacks a required one.
        """
        raise NotImplementedError


class EmbeddedNetwork(ConditionalNetwork):
    """A network whose time label, class and vector are summed to one embedding."""

    time: nn.Sequential
    between: nn.Sequential | None
    classes: nn.Embedding | None
    vector: nn.Linear | None

    def embed(self, label: Tensor, cond: Conditioning, between: Tensor | None = None) -> Tensor:
        """The embedding `(B, E)` of times `(B,)`, classes and vectors, before its activation."""
        check_conditioning(cond, self.conditioning)
        embedding: Tensor = self.time(label)
        if self.between is not None:
            embedding = embedding + self.between(torch.zeros_like(label) if between is None else between)
        if self.classes is not None:
            embedding = embedding + self.classes(cond.class_label)
        if self.vector is not None:
            embedding = embedding + self.vector(cond.vector)
        return embedding


def device_of(module: nn.Module) -> torch.device:
    """Where a module is; the CPU if it has no tensors."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it a module does not train; exceptions undo it too."""
    training = module.training
    try:
        module.eval()
        yield
    finally:
        module.train(training)


def blocks(network: nn.Module) -> list[nn.Module]:
    """The outermost modules whose class stands in a `ModuleList` of the network, in its order.

    That is a transformer's blocks and the levels or residual blocks of a UNet, with modules of the same class that
    stand alone, such as a middle. All are called, so hooks on them are, too. Modules without parameters are none.

    Args:
        network: Of any class; one without such lists has no blocks.
    """
    listed = {
        type(part)
        for parts in network.modules()
        if isinstance(parts, _LISTS)
        for part in parts.children()
        if type(part) not in _LISTS
    }
    return list(_outermost(network, listed))


def _outermost(module: nn.Module, classes: set[type[nn.Module]]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child) in classes and any(True for _ in child.parameters()):
            yield child
        else:
            yield from _outermost(child, classes)
