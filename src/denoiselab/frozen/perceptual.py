"""Perceptual distances for the training of first stages, by networks whose weights are files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.evaluation.features.efficientnet import EfficientNetLite0
from denoiselab.evaluation.restoration import LPIPS_SIDE, lpips_network
from denoiselab.files import sha256_of


class NetworkDistance(ABC):
    """A distance of images by a frozen network, in float32; grey images are repeated to three channels."""

    least: ClassVar[int] = 1  # side of the images

    def __init__(self) -> None:
        self._network: nn.Module | None = None

    @abstractmethod
    def read(self) -> nn.Module:
        """A map of two batches `(B, 3, H, W)` in [-1, 1] to B distances.

        Raises:
            ValueError: If its weights are missing, or not its own.
        """

    def check(self, shape: Sequence[int]) -> None:
        name = type(self).__name__
        if shape[0] not in (1, 3):
            raise ValueError(f"perceptual={name}: it takes grey or RGB images, and samples have {shape[0]} channels.")
        if min(shape[1:]) < self.least:
            raise ValueError(
                f"perceptual={name}: it takes images of {self.least} pixels or more, and samples have "
                f"{min(shape[1:])}; choose another, or objective.perceptual=null."
            )
        with torch.device("cpu"):
            self._loaded()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        network = self._loaded().to(x.device)
        a, b = (part.float().expand(-1, 3, -1, -1) for part in (x, y))
        out: Tensor = network(a, b).flatten()
        return out

    def _loaded(self) -> nn.Module:
        if self._network is None:
            self._network = self.read().eval().requires_grad_(False)
        return self._network


class LPIPS(NetworkDistance):
    """The learned perceptual distance, by VGG16 as in LDM's first stages, or by AlexNet.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924,
    version 0.1; the linear layers come with torchmetrics.

    Args:
        path: Torchvision's weights of the network: https://download.pytorch.org/models/vgg16-397923af.pth or
            alexnet-owt-7be5be79.pth.
        net: Which network.
        sha256: Of the file; None for any.

    Raises:
        ValueError: If there is no such file, or it is another one.
    """

    least = LPIPS_SIDE

    def __init__(self, path: str, net: Literal["vgg", "alex"] = "vgg", sha256: str | None = None) -> None:
        super().__init__()
        self.file, self.net, self.sha256 = Path(path).expanduser(), net, sha256

    def read(self) -> nn.Module:
        try:
            network = lpips_network(self.file, self.net)
        except ValueError as error:
            raise ValueError(f"perceptual.path={self.file}: {error}") from None
        if self.sha256 is not None and (found := sha256_of(self.file)) != self.sha256:
            raise ValueError(f"perceptual.sha256={self.sha256}: the file has changed; now it is {found}.")
        return network


class EfficientNetDistance(NetworkDistance):
    """The distance of features of the first blocks of ImageNet's EfficientNet-Lite0; a package has the weights.

    The sum over the stem and the blocks of the squared distances of features of length 1, averaged over places. It is
    no LPIPS: nothing in it is fitted to human judgements, and it is more sensitive to noise than to blur.

    Args:
        blocks: Blocks after the stem, at least 1 and at most 16.

    Raises:
        ValueError: If `blocks` is out of range, or the packages are not installed.
    """

    least = 8

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        if not 1 <= blocks <= 16:
            raise ValueError(f"blocks={blocks}: it must be from 1 to 16.")
        self.blocks = blocks
        self._source = EfficientNetLite0()  # type: ignore[abstract]  # `check_data` of the base has a body

    def read(self) -> nn.Module:
        self._source.check_weights(frozenset())
        inner: Any = self._source.network(frozenset())[0].inner
        return _Blocks(inner, self.blocks)


class _Blocks(nn.Module):
    def __init__(self, inner: Any, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(inner._conv_stem, inner._bn0, inner._swish)
        self.blocks = nn.ModuleList(inner._blocks[:blocks])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.stem(torch.cat([x, y]))
        total = _distance(h)
        for block in self.blocks:
            h = block(h)
            total = total + _distance(h)
        return total


def _distance(features: Tensor) -> Tensor:
    a, b = F.normalize(features, dim=1, eps=1e-8).chunk(2)
    return (a - b).square().sum(1).mean((1, 2))
