"""DINOv2's features."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.evaluation.feature_contracts import FEATURES
from denoiselab.evaluation.features.pretrained import RESIZE, Pretrained, need
from denoiselab.evaluation.features.weights import WeightsFile


class DINOv2(Pretrained):
    """DINOv2's class token, with torch-fidelity's resize; with vit-l-14 the FD-DINOv2.

    The network is timm's (extra `extractors`), as torch-fidelity cannot read a file of these weights. The position
    embedding is interpolated to 16 x 16 patches as in the authors' code. Source: Oquab et al., arXiv 2304.07193; Stein
    et al., Exposing flaws of generative model evaluation metrics, arXiv 2306.04675.

    Args:
        model: vit-s-14, vit-b-14, vit-l-14 or vit-g-14.
        weights_path: The authors' file; None for the place where torch.hub keeps it.
        sha256: Of the file; the authors publish none, so None takes any file that holds this network's tensors. Scores
            record the file's as `extractor_sha256`.

    Raises:
        ValueError: If the model is another one, or timm is not installed.
    """

    layers = frozenset((FEATURES,))
    _TIMM = {"vit-s-14": "small", "vit-b-14": "base", "vit-l-14": "large", "vit-g-14": "giant"}  # noqa: RUF012

    def __init__(self, model: str = "vit-l-14", weights_path: str | None = None, sha256: str | None = None) -> None:
        if model not in self._TIMM:
            raise ValueError(f"model={model}: it must be one of {', '.join(self._TIMM)}.")
        need("timm")
        self.model = model
        self.name = "dinov2" if model == "vit-l-14" else f"dinov2_{model.replace('-', '_')}"
        short = f"dinov2_{model.replace('-', '')}"
        url = f"https://dl.fbaipublicfiles.com/dinov2/{short}/{short}_pretrain.pth"
        self.weights = WeightsFile(f"DINOv2 {model}", weights_path, sha256, url)

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        size = 224
        inner: Any = timm.create_model(f"vit_{self._TIMM[self.model]}_patch14_dinov2", img_size=size, num_classes=0)
        state = self.state()
        state["pos_embed"] = _positions(state["pos_embed"], size // 14)
        inner.load_state_dict(checkpoint_filter_fn(state, inner))
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        scaled = tuple(255 * m for m in mean), tuple(255 * s for s in std)
        return _Resized(inner, size, *scaled), {"resize": RESIZE.format(size)}


class _Resized(nn.Module):
    """A network on images that are resized by TensorFlow 1's bilinear rule and normalised."""

    def __init__(self, inner: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.inner, self.size, self.mean, self.std = inner, size, mean, std

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
        from torchvision.transforms.functional import normalize

        x = interpolate_bilinear_2d_like_tensorflow1x(
            images.float(), size=(self.size, self.size), align_corners=False
        )  # fmt: skip
        return {FEATURES: self.inner(normalize(x, self.mean, self.std))}


def _positions(embedding: Tensor, side: int) -> Tensor:
    """DINOv2's position embedding `(1, 1 + M^2, D)` at side x side patches: bicubic by the scale (side + 0.1) / M."""
    token, patches = embedding[:, :1], embedding[:, 1:]
    m = math.isqrt(patches.shape[1])
    if m == side:
        return embedding
    grid = patches.reshape(1, m, m, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / m  # the authors' guard against rounding; it moves the points a little
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat((token, grid.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)
