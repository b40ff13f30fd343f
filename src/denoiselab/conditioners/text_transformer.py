"""A text encoder that is trained with the denoiser, from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from denoiselab.conditioners.token_encoder import TokenEncoder

# Texts of which the tokens are kept.
_KEPT = 2**16


class Tokenizer(Protocol):
    """Maps texts to numbers of tokens from 0 to `vocabulary` - 1."""

    vocabulary: int

    def __call__(self, text: str, /) -> Sequence[int]:
        """The tokens of a text."""
        ...


class TextTransformer(nn.Module):
    """A tokenizer and a `TokenEncoder` that is trained, averaged and saved with the denoiser.

    A text ends with a token of its own, and the empty text is one further token. LDM's has width 1280, depth 32, the
    vocabulary of BERT, and no mask.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section
    3.3 and appendix E.2.1.

    Args:
        tokenizer: From texts to tokens.
        width: Features of a token.
        depth: Number of blocks.
        heads: Of each attention.
        head_features: Of each head.
        length: Tokens of a text: longer ones are cut, shorter ones padded.
        dropout: Probability, on the output of each layer of a block.
        masked: Attend to the tokens that count alone, here and in the network.

    Raises:
        ValueError: If a size is out of range, or `length` < 2.
    """

    trained: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        head_features: int = 64,
        length: int = 77,
        dropout: float = 0.0,
        masked: bool = True,
    ) -> None:
        if length < 2:
            raise ValueError(f"length={length}: it must be at least 2.")
        super().__init__()
        self.tokenizer, self.length, self.masked = tokenizer, length, masked
        self._end, self._empty = tokenizer.vocabulary, tokenizer.vocabulary + 1
        self.transformer = TokenEncoder(tokenizer.vocabulary + 2, length, width, depth, heads, head_features, dropout)
        self._numbers: dict[str, list[int]] = {}

    def forward(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features `(B, length, width)` float32, and which tokens count, `(B, length)` bool, where the weights are."""
        device = self.transformer.norm.weight.device
        rows = [self._row(text) for text in texts]
        numbers = torch.tensor([[*row, *[self._end] * (self.length - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(self.length, device=device) < lengths[:, None]
        return self.transformer(numbers, mask if self.masked else None).float(), mask

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than `length`."""
        return sum(bool(text) and len(self.tokenizer(text)) >= self.length for text in texts)

    def _row(self, text: str) -> list[int]:
        """The tokens of a text, at least one."""
        if text not in self._numbers:
            if len(self._numbers) >= _KEPT:
                self._numbers.clear()
            cut = [*self.tokenizer(text)][: self.length - 1] if text else []
            self._numbers[text] = [*cut, self._end] if text else [self._empty]
        return self._numbers[text]
