"""Extractors by torch-fidelity's networks: Inception-v3, VGG16 and CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from denoiselab.evaluation.feature_contracts import FEATURES, LOGITS, SPATIAL
from denoiselab.evaluation.features.pretrained import RESIZE, Pretrained
from denoiselab.evaluation.features.weights import WeightsFile

# sFID reads the first channels of what TensorFlow's graph calls mixed_6/conv, at 17 x 17 places.
_SPATIAL_CHANNELS = 7


class InceptionV3(Pretrained):
    """Inception-v3 of the FID, by torch-fidelity: TensorFlow's weights, its bilinear resize to 299 x 299, uint8 in.

    Args:
        weights_path: File of the weights; None for the place where torch.hub keeps it.
        sha256: Of the file; None takes any file.
        layer: Whose outputs, averaged over places, are the features: 64, 192, 768, 2048 (the FID's), logits_unbiased
            or logits.

    Raises:
        ValueError: If the layer is another one.
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
        unnamed = ("precision", "recall", "density", "coverage", "mind")
        titles = {"fd": "fid", "kd": "kid", **dict(zip(unnamed, unnamed, strict=True))}
        self.titles = {"is": "is", "sfd": "sfid", **{metric: title + suffix for metric, title in titles.items()}}

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.state()  # torch-fidelity unpickles the file unsafely, so first check that it holds only tensors
        outputs = {layer: {FEATURES: self.layer, LOGITS: "logits_unbiased"}[layer] for layer in layers - {SPATIAL}}
        wanted = [*dict.fromkeys(outputs.values())] or ["768"]  # the layer after the spatial one
        inner = FeatureExtractorInceptionV3(self.name, wanted, str(self.weights.file))
        spatial = inner.Mixed_6d.branch1x1 if SPATIAL in layers else None
        facts = {"resize": RESIZE.format(299), "layer": self.layer}
        return _Outputs(inner, outputs, spatial), facts | ({} if spatial is None else {"spatial": "H, W, C"})


class VGG16(Pretrained):
    """VGG16's fc2 after its ReLU, 4096 dimensions, by torch-fidelity.

    Args:
        weights_path: File of torchvision's weights; None for the place where torch.hub keeps it.
        sha256: Of the file, or its first digits; None takes any file.
    """

    name = "vgg16"
    layers = frozenset((FEATURES,))

    def __init__(self, weights_path: str | None = None, sha256: str | None = "397923af") -> None:
        url = "https://download.pytorch.org/models/vgg16-397923af.pth"
        self.weights = WeightsFile("VGG16", weights_path, sha256, url)

    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

        self.state()  # as for InceptionV3
        inner = FeatureExtractorVGG16(self.name, ["fc2_relu"], str(self.weights.file))
        return _Outputs(inner, {FEATURES: "fc2_relu"}, None), {"resize": RESIZE.format(224), "layer": "fc2_relu"}


class CLIP(Pretrained):
    """The image encoder of OpenAI's CLIP, by torch-fidelity.

    Args:
        model: rn50, rn101, rn50x4, rn50x16, rn50x64, vit-b-32, vit-b-16, vit-l-14 or vit-l-14-336px.
        weights_path: OpenAI's TorchScript file; None for the place where torch-fidelity keeps it. Only the published
            file is read, as a TorchScript file is a program.

    Raises:
        ValueError: If the model is another one.
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
        from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

        inner = FeatureExtractorCLIP(self.model, ["clip"], str(self.weights.file))
        return _Outputs(inner, {FEATURES: "clip"}, None), {"resize": RESIZE.format(inner.resolution)}


class _Outputs(nn.Module):
    """One of torch-fidelity's networks.

    Args:
        inner: The network.
        outputs: Layer to its name in the network.
        spatial: The part whose first channels are the spatial layer.
    """

    def __init__(self, inner: nn.Module, outputs: Mapping[str, str], spatial: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs
        self._spatial: list[Tensor] = []
        if spatial is not None:
            spatial.register_forward_hook(lambda m, given, out: self._spatial.append(out[:, :_SPATIAL_CHANNELS]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self._spatial.clear()
        inner: Any = self.inner
        found = inner.convert_features_tuple_to_dict(inner(images))
        out = {layer: found[name] for layer, name in self.outputs.items()}
        if self._spatial:
            out[SPATIAL] = self._spatial[0].permute(0, 2, 3, 1).flatten(1)  # as TensorFlow has them, and ADM's files
        return out
