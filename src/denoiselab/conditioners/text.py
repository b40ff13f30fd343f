"""Captions as conditioning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.checks import check_dropout
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.layers import Dropout
from denoiselab.noise import Noise


class TextEncoder(Protocol):
    """A model from texts to token features; with `masked` the network gets the mask of the tokens that count.

    It is frozen, or an `nn.Module` with an attribute `trained` that is true, which is trained with the denoiser. It may
    have a method `cut(texts)` that says how many texts are longer than it takes.
    """

    masked: bool

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, ...]:
        """Features `(B, L, D)` float32 and mask `(B, L)` bool, True where a token counts; L never changes.

        A third tensor `(B, V)` float32 is the vector of the text, instead of the mean of the tokens that count.
        """
        ...


class Text(Conditioner):
    """The features of a text; the null condition is the empty text.

    They are `tokens` `(B, L, D)`, with `mask` `(B, L)` if the encoder is masked, or `vector` `(B, D)`, the encoder's
    own or the mean of the tokens that count, or both. A frozen encoder computes them once a text, and they are cached.
    Generated samples have `prompts`, in turn; without those, the captions of `split`.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section
    3.3; the dropped condition is Ho and Salimans', arXiv 2207.12598, algorithm 1; the mean Reimers and Gurevych's,
    Sentence-BERT, arXiv 1908.10084, section 3.

    Args:
        encoder: One that is frozen is not trained, averaged or saved; a `TextTransformer` is.
        dropout: Probability of the empty text in training.
        prompts: Texts of generated samples, in turn; None for captions of `split`.
        kept: Size of the cache on the CPU, in texts.
        gives: "tokens", "vector", or both.
        split: "held_out" or "train": of whose captions samples are drawn without prompts.
        negative_prompts: Texts whose features are the null condition of generated samples, one for all or one a prompt;
            None for the empty text.

    Raises:
        ValueError: If a value is out of range, `prompts` or `gives` is empty, or negative prompts are neither one nor
            one a prompt.
    """

    uses_images = False
    network_options: Mapping[str, str] = {"token_features": "texts", "vector_features": "vectors"}

    def __init__(
        self,
        encoder: TextEncoder,
        dropout: float = 0.1,
        prompts: Sequence[str] | None = None,
        kept: int = 4096,
        gives: Sequence[str] = ("tokens",),
        negative_prompts: Sequence[str] | None = None,
        split: Literal["held_out", "train"] = "held_out",
    ) -> None:
        check_dropout(dropout)
        if prompts is not None and not prompts:
            raise ValueError("prompts=[]: at least one is needed; null takes captions of held-out data.")
        if kept < 1:
            raise ValueError(f"kept={kept}: it must be at least 1.")
        if not gives or not set(gives) <= {"tokens", "vector"}:
            raise ValueError(f"gives={list(gives)}: it must be [tokens], [vector] or [tokens,vector].")
        if negative_prompts is not None and len(negative_prompts) not in {1, len(prompts or [])} - {0}:
            raise ValueError(
                f"negative_prompts={list(negative_prompts)}: give one text for all samples, or one a prompt, of which "
                f"there are {'none' if prompts is None else len(prompts)}."
            )
        self.encoder, self.dropout, self.prompts, self.kept = encoder, dropout, prompts, kept
        self.negative_prompts, self.split = negative_prompts, split
        self.pictures = None if prompts is not None else split
        self.strata = len(prompts) if prompts is not None else 1
        self.names = frozenset(gives) | ({"mask"} if encoder.masked and "tokens" in gives else set())
        self._held_out: HeldOut | None = None
        self._cache: OrderedDict[str, list[Tensor]] = OrderedDict()  # as of the encoder, of one text

    @property
    def module(self) -> nn.Module | None:
        trained = getattr(self.encoder, "trained", False)
        return self.encoder if trained and isinstance(self.encoder, nn.Module) else None

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        dropped = (noise.uniform() < self.dropout).tolist()
        texts = ["" if drop else text for drop, text in zip(dropped, _captions(clean), strict=True)]
        return self._conditioning(texts, clean.labels.device)

    def given(self, clean: Clean) -> Conditioning:
        return self._conditioning(_captions(clean), clean.labels.device)

    def of(self, values: Any, device: torch.device) -> Conditioning:
        if not all(isinstance(text, str) for text in values):
            raise ValueError(f"cond={values!r}: give one text a sample.")
        return self._conditioning(list(values), device)

    def sample(self, index: Tensor) -> Conditioning:
        texts = self.described(index)
        if texts is None:
            raise ValueError("conditioner.prompts=null: captions of held-out data take their place; there are none.")
        return self._conditioning(texts, index.device)

    def described(self, index: Tensor) -> list[str] | None:
        if self.prompts is not None:
            return [self.prompts[i % len(self.prompts)] for i in index.tolist()]
        return None if self._held_out is None else list(_captions(self._held_out(index)))

    def classes_of(self, index: Tensor) -> Tensor | None:
        return None if self.prompts is not None or self._held_out is None else self._held_out(index).labels

    def null(self, index: Tensor) -> Conditioning:
        texts = self.negative_prompts or [""]
        return self._conditioning([texts[i % len(texts)] for i in index.tolist()], index.device)

    def load(self) -> None:
        if (load := getattr(self.encoder, "load", None)) is not None:
            load()

    def set_held_out(self, held_out: HeldOut) -> None:
        self._held_out = held_out

    def _conditioning(self, texts: Sequence[str], device: torch.device) -> Conditioning:
        tokens, mask, *vector = self._features(texts, device)
        given = {"tokens": tokens, "mask": mask}
        if "vector" in self.names:
            counted = mask[:, :, None].to(tokens)
            given["vector"] = vector[0] if vector else (tokens * counted).sum(1) / counted.sum(1).clamp_min(1)
        return Conditioning(**{name: given[name] for name in self.names})

    def _features(self, texts: Sequence[str], device: torch.device) -> list[Tensor]:
        """What the encoder makes of texts; of a frozen one from the cache, where they are."""
        distinct = dict.fromkeys(texts)
        if self.module is not None:
            if any(isinstance(layer, Dropout) and layer.p and layer.training for layer in self.module.modules()):
                return [*self.encoder(texts, device)]  # whose masks differ between samples of one text
            places = {text: place for place, text in enumerate(distinct)}
            features = self.encoder([*distinct], device)
            rows = torch.tensor([places[text] for text in texts], device=features[0].device)
            return [part[rows] for part in features]
        new = [text for text in distinct if text not in self._cache]
        found = {text: self._cache[text] for text in distinct if text in self._cache}
        if new:
            made = (part.cpu() for part in self.encoder(new, device))
            found |= {text: parts for text, *parts in zip(new, *made, strict=True)}
        for text, value in found.items():
            self._cache[text] = value
            self._cache.move_to_end(text)
        while len(self._cache) > self.kept:
            self._cache.popitem(last=False)
        return [torch.stack(parts).to(device) for parts in zip(*(found[text] for text in texts), strict=True)]


def _captions(clean: Clean) -> Sequence[str]:
    if clean.captions is None:
        raise ValueError(
            "conditioner=text: the data set has no captions; choose data with captions or another conditioner."
        )
    return clean.captions
