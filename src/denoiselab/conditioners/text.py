"""Captions as conditioning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.checks import check_dropout
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class TextEncoder(Protocol):
    """A frozen model from texts to token features; `masked`: the network shall be told which tokens count."""

    masked: bool

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features `(B, L, D)` float32, and mask `(B, L)` bool, True where a token counts; L is always the same."""
        ...


class Text(Conditioner):
    """What a frozen encoder makes of a text; the null is the empty text.

    It is `tokens` `(B, L, D)`, with their `mask` `(B, L)` where the encoder is masked, or `vector` `(B, D)`, the mean
    of the tokens that count, or both.

    Features are computed once a text and kept, up to a number of texts. Samples are of `prompts`, in turn; without
    those, of the captions of held-out data, in turn.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section
    3.3; the dropped condition is Ho and Salimans', arXiv 2207.12598, algorithm 1; the mean Reimers and Gurevych's,
    Sentence-BERT, arXiv 1908.10084, section 3.

    Args:
        encoder: Frozen; it is no part of the model that is trained, averaged or saved.
        dropout: Probability of the empty text in training.
        prompts: Texts of samples, in turn; None for captions of held-out data.
        kept: Texts whose features are kept, on the CPU.
        gives: "tokens", "vector", or both.

    Raises:
        ValueError: Unless 0 <= dropout < 1, kept >= 1 and there is a prompt, if there are prompts; or it gives nothing,
            or something else.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        dropout: float = 0.1,
        prompts: Sequence[str] | None = None,
        kept: int = 4096,
        gives: Sequence[str] = ("tokens",),
    ) -> None:
        check_dropout(dropout)
        if prompts is not None and not prompts:
            raise ValueError("prompts=[]: at least one is needed; null takes captions of held-out data.")
        if kept < 1:
            raise ValueError(f"kept={kept}: it must be at least 1.")
        if not gives or not set(gives) <= {"tokens", "vector"}:
            raise ValueError(f"gives={list(gives)}: it must be [tokens], [vector] or [tokens,vector].")
        self.encoder, self.dropout, self.prompts, self.kept = encoder, dropout, prompts, kept
        self.strata = len(prompts) if prompts is not None else 1
        self.names = frozenset(gives) | ({"mask"} if encoder.masked and "tokens" in gives else set())
        self._held_out: HeldOut | None = None
        self._known: OrderedDict[str, _Features] = OrderedDict()

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        """The captions, some of them replaced by the empty text."""
        dropped = (noise.uniform() < self.dropout).tolist()
        texts = ["" if drop else text for drop, text in zip(dropped, _captions(clean), strict=True)]
        return self._conditioning(texts, clean.labels.device)

    def given(self, clean: Clean) -> Conditioning:
        """The captions."""
        return self._conditioning(_captions(clean), clean.labels.device)

    def sample(self, index: Tensor) -> Conditioning:
        """Sample i is of prompt i, or of the caption of held-out sample i, in turn."""
        texts = self.described(index)
        if texts is None:
            raise ValueError("conditioner.prompts: there are none, nor data whose captions could stand for them.")
        return self._conditioning(texts, index.device)

    def described(self, index: Tensor) -> list[str] | None:
        """The prompts, or the captions used in their place."""
        if self.prompts is not None:
            return [self.prompts[i % len(self.prompts)] for i in index.tolist()]
        return None if self._held_out is None else list(_captions(self._held_out(index)))

    def null(self, index: Tensor) -> Conditioning:
        """The empty text."""
        return self._conditioning([""] * len(index), index.device)

    def meet(self, held_out: HeldOut) -> None:
        """Take the captions of these, where there are no prompts."""
        self._held_out = held_out

    def _conditioning(self, texts: Sequence[str], device: torch.device) -> Conditioning:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = {text: self._known[text] for text in dict.fromkeys(texts) if text in self._known}
        if new:
            features = (part.cpu() for part in self.encoder(new, device))
            found |= {text: _Features(*pair) for text, *pair in zip(new, *features, strict=True)}
        for text, value in found.items():
            self._known[text] = value
            self._known.move_to_end(text)
        while len(self._known) > self.kept:
            self._known.popitem(last=False)
        tokens = torch.stack([found[text].tokens for text in texts]).to(device)
        mask = torch.stack([found[text].mask for text in texts]).to(device)
        given = {"tokens": tokens, "mask": mask}
        if "vector" in self.names:
            counted = mask[:, :, None].to(tokens)
            given["vector"] = (tokens * counted).sum(1) / counted.sum(1).clamp_min(1)
        return Conditioning(**{name: given[name] for name in self.names})


class _Features(NamedTuple):
    """Of one text: `tokens` `(L, D)` and `mask` `(L,)`."""

    tokens: Tensor
    mask: Tensor


def _captions(clean: Clean) -> Sequence[str]:
    if clean.captions is None:
        raise ValueError("conditioner=text: the data set has no captions; choose one that has, or another conditioner.")
    return clean.captions
