"""Text encoders of transformers, from local folders."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab import progress
from denoiselab.frozen.folders import check_sha256, configuration, folder_of, sha256_of, token_features
from denoiselab.frozen.text_store import TextStore

# Classes of the text encoders of models that have more parts; `AutoModel` is used for others.
_PARTS = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}

# Architectures of folders that have CLIP's projection of the pooled state.
_PROJECTED = {"CLIPTextModelWithProjection", "CLIPModel"}

# Files of weights; the first pattern that matches is used.
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")

# Files of a variant, such as fp16, which is read if there is nothing else.
_VARIANT = re.compile(r"(?:pytorch_)?model\.(?!safetensors|bin)([\w-]+)\.(?:safetensors|bin)")

# Texts at a time.
_BATCH = 64


def tokenized(tokenizer: Any, texts: Sequence[str], length: int, device: torch.device) -> Iterator[Any]:
    """Batches of texts as a tokenizer of transformers gives them: `input_ids` and `attention_mask`, `(B, length)`."""
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        found = tokenizer(batch, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        yield found.to(device)


class TextEncoder:
    """The hidden states of a model of transformers, such as CLIP's, T5's or BERT's; frozen, in float32.

    It is read when it is first needed, from local files only, and no code in them is run.

    Args:
        path: The model's folder.
        tokenizer: The tokenizer's folder; None for the same or, as in a pipeline, `tokenizer` next to it.
        length: Tokens of a text: longer ones are cut, shorter ones padded.
        masked: Pass the mask of the tokens that count to model and network; not so for Stable Diffusion's.
        sha256: Of the folder's files; None for any.
        layer: Of the hidden states: -1 for the model's output, -2 for the last block but one, without the last norm, as
            Stable Diffusion XL's.
        pooled: Give the model's own vector of a text too: CLIP's state at the end of the text, projected where the
            folder has the projection; BERT's pooler.
        store: Folder where the features of captions are kept, in half precision, to which all are rounded then; None to
            keep none.

    Raises:
        ValueError: If there is no such folder, it is no text encoder, transformers is not installed, `length` < 2,
            `layer` > -1, or a file of the store is damaged.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str | None = None,
        length: int = 77,
        masked: bool = True,
        sha256: str | None = None,
        layer: int = -1,
        pooled: bool = False,
        store: str | None = None,
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
        if layer > -1:
            raise ValueError(f"layer={layer}: it must be -1 for the last, -2 for the last but one, or less.")
        self.length, self.masked, self.layer, self.pooled = length, masked, layer, pooled
        self._read: tuple[Any, Any] | None = None
        self._store = None if store is None else TextStore(Path(store).expanduser(), self._facts, ragged=masked)

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, ...]:
        """Features `(B, length, features)` float32, which tokens count, `(B, length)` bool; with `pooled` the vectors.

        Raises:
            ValueError: If the files cannot be read or have changed.
        """
        device = torch.device("cpu") if device.type == "meta" else device
        if self._store is None:
            return self._encoded(texts, device)
        new = [text for text in dict.fromkeys(texts) if text not in self._store]
        features = self._encoded(new, device) if new else ()
        made = {
            text: [part if part.dtype is torch.bool else part.half().float() for part in parts]
            for text, *parts in zip(new, *features, strict=True)
        }
        found = ([*(made[text] if text in made else self._store[text])] for text in texts)
        return tuple(torch.stack([part.to(device) for part in parts]) for parts in zip(*found, strict=True))

    def keep(self, texts: Sequence[str]) -> None:
        """Put the features of texts into the store, if there is one, unless they are there."""
        store = self._store
        new = [] if store is None else [text for text in dict.fromkeys(texts) if text not in store]
        if store is None or not new:
            return
        parts = []
        with progress.bar("captions", len(new), unit="text") as bar:
            for start in range(0, len(new), _BATCH):
                parts.append(self._encoded(new[start : start + _BATCH], torch.device("cpu")))
                bar.update(len(parts[-1][0]))
        store.add(new, *(torch.cat(part) for part in zip(*parts, strict=True)))

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have more than `length` tokens."""
        _, tokenizer = self._loaded
        return sum(
            len(row) > self.length for row in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        )

    def load(self) -> None:
        """Read model and tokenizer, unless they have been read.

        Raises:
            ValueError: If the files cannot be read or have changed.
        """
        self._read = self._loaded

    @property
    def _loaded(self) -> tuple[Any, Any]:
        if self._read is None:
            self._read = self._model()
        return self._read

    @property
    def _facts(self) -> dict[str, Any]:
        """What features depend on beside the text."""
        tokenizer = {} if self.tokenizer == self.folder else {"tokenizer": sha256_of(self.tokenizer)}
        options = {"length": self.length, "masked": self.masked, "layer": self.layer, "pooled": self.pooled}
        return {"encoder": self.sha256 or sha256_of(self.folder), **tokenizer, **options}

    @torch.no_grad()
    def _encoded(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, ...]:
        model, tokenizer = self._loaded
        parts = []
        with torch.device("cpu"), torch.autocast(device.type, enabled=False):
            for batch in tokenized(tokenizer, texts, self.length, device):
                told = {"attention_mask": batch["attention_mask"]} if self.masked else {}
                if self.layer < -1:
                    told["output_hidden_states"] = True
                out = model.to(device)(input_ids=batch["input_ids"], **told)
                features = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
                pooled = [out["text_embeds" if "text_embeds" in out else "pooler_output"]] if self.pooled else []
                parts.append((features.float(), batch["attention_mask"].bool(), *(one.float() for one in pooled)))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def write(self, folder: Path) -> None:
        """Write model and tokenizer to a folder, the weights as safetensors."""
        for part in self._loaded:
            part.save_pretrained(folder)

    def write_parts(self, folder: Path) -> dict[str, str]:
        """Write model and tokenizer into a pipeline's folder; returns the names of their classes by part."""
        model, tokenizer = self._loaded
        tokenizer.model_max_length = self.length  # what pipelines pad texts to
        parts = {"text_encoder": model, "tokenizer": tokenizer}
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        return {name: type(part).__name__ for name, part in parts.items()}

    def _model(self) -> tuple[Any, Any]:
        import transformers

        check_sha256(self.folder, self.sha256)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        config = configuration(self.folder)
        name = _PARTS.get(str(config.get("model_type")), "AutoModel")
        if self.pooled and name == "CLIPTextModel" and {*config.get("architectures", [])} & _PROJECTED:
            name = "CLIPTextModelWithProjection"
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
                    ignore_mismatched_sizes=True,  # refused below, in a sentence
                    variant=self._variant,
                )
        except Exception as error:  # transformers raises many types
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"conditioner.encoder.path={self.folder}: it cannot be read: {reason}") from None
        missing = sorted(key for key in report["missing_keys"] if self.pooled or not key.startswith("pooler."))
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
        blocks = getattr(model.config, "num_hidden_layers", None)
        if blocks is not None and -self.layer > blocks:
            raise ValueError(f"conditioner.encoder.layer={self.layer}: the encoder has {blocks} blocks.")
        if self.pooled and name == "T5EncoderModel":
            raise ValueError(
                f"conditioner.encoder.pooled=true: {self.folder} has no vector of its own; without it the vector is "
                "the mean of the tokens that count."
            )
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
