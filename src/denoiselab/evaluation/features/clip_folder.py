"""CLIP from a folder of transformers: features of images and of texts."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Workspace
from denoiselab.evaluation.feature_contracts import FEATURES
from denoiselab.evaluation.features.extractors import ImageExtractor, NetworkFeatures
from denoiselab.files import sha256_of

_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")
_BATCH = 64  # texts at a time

# Of the values of pixels, by OpenAI, unless preprocessor_config.json has others.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CLIPFolder(ImageExtractor):
    """The image and text encoders of a CLIP in a folder of transformers, projected to their common space.

    Images are resized by their shorter side, bicubically with antialiasing, and cropped to the centre. The extractor's
    name has the model's width and patch. Source: Radford et al., arXiv 2103.00020.

    Args:
        path: The folder, such as a clone of openai/clip-vit-base-patch32 with `model.safetensors`.

    Raises:
        ValueError: If there is no such folder, it holds no CLIP, or transformers is not installed.
    """

    layers = frozenset((FEATURES,))
    reads_texts = True

    def __init__(self, path: str) -> None:
        self.folder = Path(path).expanduser()
        where = f"evaluation.extractor.path={path}"
        if missing := [name for name in _FILES if not (self.folder / name).is_file()]:
            raise ValueError(f"{where}: has no {missing[0]}; name a folder of a CLIP of transformers.")
        if importlib.util.find_spec("transformers") is None:
            raise ValueError(f"{where}: it needs an extra: pip install denoiselab[text].")
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            kind, sizes = config.get("model_type"), config.get("vision_config", {})
        except (AttributeError, OSError, ValueError):
            kind, sizes = None, {}
        if kind != "clip":
            raise ValueError(f"{where}: is of the kind {kind}; it must be a clip, with image and text encoder.")
        self.name = f"clip_{sizes.get('hidden_size', 768)}_{sizes.get('patch_size', 32)}"

    def check_weights(self, layers: frozenset[str]) -> str:
        """The sha256 of configuration, weights and tokenizer."""
        files = sorted(file for file in self.folder.iterdir() if file.suffix in (".json", ".safetensors", ".txt"))
        return hashlib.sha256(" ".join(f"{file.name} {sha256_of(file)}" for file in files).encode()).hexdigest()

    def extractor(self, layers: frozenset[str], train: DataSet, held_out: DataSet, work: Workspace) -> NetworkFeatures:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        folder, options = str(self.folder), dict[str, Any](local_files_only=True, trust_remote_code=False)
        try:
            loaded: Any = transformers.CLIPModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
            model, report = loaded
            if report["missing_keys"] or report["mismatched_keys"]:
                raise ValueError("its weights do not fit its configuration")
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **options)
            file = self.folder / "preprocessor_config.json"
            given = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            network = _Images(model, given.get("image_mean", _MEAN), given.get("image_std", _STD))
        except Exception as error:  # files that are damaged fail with any error
            reason = " ".join(str(error).split())
            raise ValueError(f"evaluation.extractor.path={folder}: it cannot be read: {reason}") from None
        facts = {"resize": f"bicubic with antialiasing to {network.size}, centre crop"}
        return CLIPFeatures(self.name, self.check_weights(layers), network, facts, tokenizer)


class CLIPFeatures(NetworkFeatures):
    """Those of images, as of `NetworkFeatures`, and of texts.

    Args:
        name: Of the extractor.
        fingerprint: sha256 of its files.
        network: Of images.
        facts: For the record.
        tokenizer: Of texts.
    """

    def __init__(self, name: str, fingerprint: str, network: _Images, facts: dict[str, Any], tokenizer: Any) -> None:
        super().__init__(name, fingerprint, network, 3, facts, {}, "")
        self._model, self._tokenizer = network.model, tokenizer

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features `(n, D)` float32 of texts, on the CPU; those that are too long are cut."""
        distinct, model = [*dict.fromkeys(texts)], self._model
        length, device = model.config.text_config.max_position_embeddings, model.logit_scale.device
        found: dict[str, Tensor] = {}
        with torch.autocast(device.type, enabled=False):
            for first in range(0, len(distinct), _BATCH):
                part = distinct[first : first + _BATCH]
                tokens = self._tokenizer(
                    part, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
                ).to(device)
                out = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
                found |= zip(part, model.text_projection(out.pooler_output).float().cpu(), strict=True)
        return torch.stack([found[text] for text in texts])


class _Images(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.size = model, int(model.config.vision_config.image_size)
        for name, numbers in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(numbers).view(-1, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = (round(self.size * side / min(images.shape[2:])) for side in images.shape[2:])
        x = F.interpolate(images.float(), (height, width), mode="bicubic", antialias=True).round().clamp(0, 255)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        x = x[:, :, top : top + self.size, left : left + self.size]
        out = self.model.vision_model(pixel_values=(x / 255 - self.mean) / self.std)
        return {FEATURES: self.model.visual_projection(out.pooler_output)}
