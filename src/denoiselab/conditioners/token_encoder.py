"""The text encoder that latent diffusion trains together with its denoiser."""

from __future__ import annotations

from torch import Tensor, nn

from denoiselab.networks.checks import check_dropout, check_sizes
from denoiselab.networks.layers import Dropout
from denoiselab.networks.transformer import FeedForward, TokenAttention


class TokenEncoder(nn.Module):
    """Numbers of tokens to features: learned embeddings and positions, pre-norm blocks, and a last layer norm.

    The defaults are those of LDM's 1.45 B model, whose tokens are those of BERT's uncased tokenizer. Its heads have 64
    features whatever the width is. LDM passes no mask: padding is attended to as texts are.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix
    E.2.1 and table 17.

    Args:
        vocabulary: Number of different tokens.
        length: Largest number of tokens of a text.
        width: Features of a token.
        depth: Number of blocks.
        heads: Of each attention.
        head_features: Of each head.
        dropout: Probability, on the output of each layer of a block.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        length: int = 77,
        width: int = 1280,
        depth: int = 32,
        heads: int = 8,
        head_features: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "length": length, "width": width, "depth": depth}
        check_sizes({**sizes, "heads": heads, "head_features": head_features})
        check_dropout(dropout)
        self.length, self.features = length, width
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads, head_features, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, numbers: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features `(B, L, width)` of the tokens of texts.

        Args:
            numbers: `(B, L)` int64, of the tokens, from 0 to `vocabulary` - 1; L is at most `length`.
            mask: `(B, L)` bool, True where a token is attended to, at least one a text; None if all are.
        """
        tokens = self.embedding(numbers) + self.positions.weight[: numbers.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        out: Tensor = self.norm(tokens)
        return out


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each after a norm and with a residual."""

    def __init__(self, width: int, heads: int, head_features: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads, bias=False, inner=heads * head_features)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width)
        self.dropout_attention, self.dropout_mlp = Dropout(dropout), Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        tokens = tokens + self.dropout_attention(self.attention(self.norm_attention(tokens), mask=mask))
        out: Tensor = tokens + self.dropout_mlp(self.mlp(self.norm_mlp(tokens)))
        return out
