"""Text encoders of transformers, from local folders."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.frozen.folders import check_sha256, configuration, folder_of, token_features

# Classes of the text encoders of models that have more parts; `AutoModel` is used for others.
_PARTS = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}

# Files of weights; the first pattern that matches is used.
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")

# Files of a variant, such as fp16, which is read if there is nothing else.
_VARIANT = re.compile(r"(?:pytorch_)?model\.(?!safetensors|bin)([\w-]+)\.(?:safetensors|bin)")

# Texts at a time.
_BATCH = 64


class TextEncoder:
    """The last hidden states of a model of transformers, such as CLIP's, T5's or BERT's; frozen, in float32.

    It is read at the first call, from local files only, and no code in them is run.

    Args:
        path: The model's folder.
        tokenizer: The tokenizer's folder; None for the same or, as in a pipeline, `tokenizer` next to it.
        length: Tokens of a text: longer ones are cut, shorter ones padded.
        masked: Pass the mask of the tokens that count to model and network; not so for Stable Diffusion's.
        sha256: Of the folder's files; None for any.

    Raises:
        ValueError: If there is no such folder, it is no text encoder, transformers is not installed, or `length` < 2.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str | None = None,
        length: int = 77,
        masked: bool = True,
        sha256: str | None = None,
    ) -> None:
        self.folder, self.sha256 = folder_of(path), sha256
        self.features = token_features(path)
        default = self.folder if (self.folder / "tokenizer_config.json").is_file() else self.folder.parent / "tokenizer"
        self.tokenizer = default if tokenizer is None else Path(tokenizer).expanduser()
        if not (self.tokenizer / "tokenizer_config.json").is_file():
            raise ValueError(f"tokenizer={self.tokenizer}: there is no tokenizer_config.json; name its folder.")
        if length < 2:
            raise ValueError(f"length={length}: it must be at least 2.")
        if importlib.util.find_spec("transformers") is None:
            raise ValueError(f"path={path}: text encoders need an extra: pip install denoiselab[text].")
        self.length, self.masked = length, masked
        self._read: tuple[Any, Any] | None = None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features `(B, length, features)` float32, and which tokens count, `(B, length)` bool.

        Raises:
            ValueError: If the files cannot be read or have changed.
        """
        if self._read is None:
            self._read = self._model()
        model, tokenizer = self._read
        device = torch.device("cpu") if device.type == "meta" else device
        features, masks = [], []
        with torch.device("cpu"), torch.autocast(device.type, enabled=False):
            for start in range(0, len(texts), _BATCH):
                batch = tokenizer(
                    list(texts[start : start + _BATCH]),
                    padding="max_length",
                    max_length=self.length,
                    truncation=True,
                    return_tensors="pt",
                ).to(device)
                mask = {"attention_mask": batch["attention_mask"]} if self.masked else {}
                features.append(model.to(device)(input_ids=batch["input_ids"], **mask).last_hidden_state.float())
                masks.append(batch["attention_mask"].bool())
        return torch.cat(features), torch.cat(masks)

    def write(self, folder: Path) -> None:
        """Write model and tokenizer to a folder, the weights as safetensors."""
        for part in self._read or self._model():
            part.save_pretrained(folder)

    def _model(self) -> tuple[Any, Any]:
        import transformers

        check_sha256(self.folder, self.sha256)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        name = _PARTS.get(str(configuration(self.folder).get("model_type")), "AutoModel")
        try:
            with torch.device("cpu"):
                # Without the second, transformers asks on the terminal whether code in the folder shall run.
                safe = {"local_files_only": True, "trust_remote_code": False}
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(self.tokenizer), **safe)
                model, report = getattr(transformers, name).from_pretrained(
                    str(self.folder),
                    **safe,
                    dtype=torch.float32,
                    output_loading_info=True,
                    variant=self._variant,
                )
        except Exception as error:  # transformers raises many types
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"conditioner.encoder.path={self.folder}: it cannot be read: {reason}") from None
        missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
        if missing or report["mismatched_keys"]:
            what = f"lacks '{missing[0]}'" if missing else "has weights of other shapes"
            raise ValueError(f"conditioner.encoder.path={self.folder}: does not fit its configuration: it {what}.")
        self._check_types(model)
        for key, tensor in model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise ValueError(
                    f"conditioner.encoder.path={self.folder}: '{key}' holds numbers that are not finite in float32."
                )
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and self.length > longest:
            raise ValueError(f"conditioner.encoder.length={self.length}: the encoder takes at most {longest} tokens.")
        return model.eval().requires_grad_(False), tokenizer

    @property
    def _variant(self) -> str | None:
        """The weights' variant, if there is only one."""
        if any(path for pattern in _WEIGHTS for path in self.folder.glob(pattern)):
            return None
        found = {match[1] for path in self.folder.iterdir() if (match := _VARIANT.fullmatch(path.name))}
        return found.pop() if len(found) == 1 else None

    def _check_types(self, model: Any) -> None:
        """Check that no weight is stored as integers or in 8 bits, which transformers casts silently."""
        from transformers.modeling_utils import load_state_dict

        taken = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
        patterns = (*_WEIGHTS, f"model.{self._variant}.safetensors", f"pytorch_model.{self._variant}.bin")
        files = next(filter(None, (sorted(self.folder.glob(pattern)) for pattern in patterns)), [])
        for file in files:
            for name, tensor in load_state_dict(str(file), map_location="meta").items():
                if tensor.is_floating_point() and tensor.dtype.itemsize > 1:
                    continue
                if any(f".{name}".endswith(f".{key}") or f".{key}".endswith(f".{name}") for key in taken):
                    raise ValueError(
                        f"conditioner.encoder.path={self.folder}: '{name}' is of {str(tensor.dtype)[6:]}, where real "
                        "numbers of 16 bits or more are needed."
                    )
