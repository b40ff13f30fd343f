"""Several text encoders as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.conditioners.text import TextEncoder


class SeveralEncoders:
    """Frozen text encoders side by side; the vector of a text has those of all encoders, one after the other.

    Joined by features, token i has the features of token i of each encoder, as in Stable Diffusion XL (arXiv
    2307.01952, section 2.1). Joined by tokens, the sequences follow each other, and features of narrower ones are
    padded with zeros, as in Stable Diffusion 3 (arXiv 2403.03206, section 4).

    Args:
        encoders: Name to encoder, in their order.
        join: features, or tokens.
        vectors: Names of the encoders whose vectors count; None for all.

    Raises:
        ValueError: If there is none, one is trained, or `vectors` names another one.
    """

    def __init__(
        self,
        encoders: Mapping[str, TextEncoder],
        join: Literal["features", "tokens"] = "features",
        vectors: Sequence[str] | None = None,
    ) -> None:
        if not encoders:
            raise ValueError("encoders={}: name at least one.")
        if trained := [name for name, one in encoders.items() if getattr(one, "trained", False)]:
            raise ValueError(f"encoders.{trained[0]}: it is trained with the denoiser, so it cannot be one of several.")
        if unknown := [name for name in vectors or () if name not in encoders]:
            raise ValueError(f"vectors={list(vectors or ())}: there is no encoder {unknown[0]}.")
        self.encoders, self.join = encoders, join
        self.vectors = [*encoders] if vectors is None else [*vectors]
        self.masked = any(one.masked for one in encoders.values())

    def __call__(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Features `(B, L, D)` float32, which tokens count, `(B, L)` bool, and the vectors `(B, V)`.

        Raises:
            ValueError: If they are joined by features and have different lengths.
        """
        features, masks, vectors = [], [], []
        for name, one in self.encoders.items():
            tokens, mask, *own = one(texts, device)
            if name in self.vectors:
                counted = mask[:, :, None].to(tokens)
                vectors.append(own[0] if own else (tokens * counted).sum(1) / counted.sum(1).clamp_min(1))
            features.append(tokens)
            masks.append(mask if one.masked else torch.ones_like(mask))
        vector = torch.cat(vectors, 1) if vectors else features[0].new_zeros(len(texts), 0)
        if self.join == "tokens":
            widest = max(part.shape[2] for part in features)
            padded = [F.pad(part, (0, widest - part.shape[2])) for part in features]
            return torch.cat(padded, 1), torch.cat(masks, 1), vector
        if len({part.shape[1] for part in features}) > 1:
            lengths = ", ".join(str(part.shape[1]) for part in features)
            raise ValueError(f"join=features: the encoders give {lengths} tokens; give them the same length.")
        return torch.cat(features, 2), torch.stack(masks).any(0), vector

    def keep(self, texts: Sequence[str]) -> None:
        """Put the features of texts into the stores of those encoders that have one."""
        for keep in self._methods("keep"):
            keep(texts)

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than one of the encoders takes, at most."""
        return max((int(cut(texts)) for cut in self._methods("cut")), default=0)

    @property
    def length(self) -> str:
        """Of each encoder, for messages."""
        return ", ".join(str(getattr(one, "length", "?")) for one in self.encoders.values())

    def _methods(self, name: str) -> list[Any]:
        return [getattr(one, name) for one in self.encoders.values() if hasattr(one, name)]
