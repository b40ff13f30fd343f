"""The UNet of latent diffusion and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from denoiselab.networks.checks import Levels
from denoiselab.networks.conditioning import Conditioning, check_conditioning
from denoiselab.networks.unet import Context, Plan, UNet


class TextUNet(UNet):
    """Rombach et al.'s UNet: ADM's residual blocks, and transformers over positions that attend to a text's tokens.

    The defaults are Stable Diffusion 1's. Its second version has heads (5, 10, 20, 20) and 1024 token features. The
    time label is the step 0..T-1. Layers are initialised as torch's are, the last ones of branches with zeros, as in
    the source.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.3
    and appendix E.2.1.

    Args:
        attention_levels: Levels, counted from 0, whose blocks are followed by a transformer; the middle always has one.
        depth: Blocks of a transformer: one number, or one a level.
        heads: Heads of each attention: one number, or one a level.
        class_token: Attend to the class as one token of `token_features` (LDM's `ClassEmbedder`), in place of a text's;
            otherwise it is added to the time's embedding.

    Raises:
        ValueError: If `class_token` is set without classes.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 320,
        multipliers: Sequence[float] = (1, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (0, 1, 2),
        depth: int | Sequence[int] = 1,
        heads: int | Sequence[int] = 8,
        dropout: float = 0.0,
        groups: int = 32,
        token_features: int = 768,
        num_classes: int | None = None,
        null_class: bool = True,
        image_channels: int | None = None,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        class_token: bool = False,
    ) -> None:
        if class_token and num_classes is None:
            raise ValueError("class_token=true: it needs the number of classes, num_classes.")
        sizes = (shape, channels, multipliers, blocks, attention_levels, dropout, groups)
        plan = Plan(
            *(*sizes, checkpoint_levels, image_channels, vector_features),
            heads=_per_level("heads", heads, len(multipliers)),
            cosine_first=True,
            token_features=token_features,
            depths=_per_level("depth", depth, len(multipliers)),
        )
        super().__init__(plan, num_classes, null_class, outputs)
        self.class_token = class_token
        if class_token:
            assert num_classes is not None
            self.conditioning -= {"tokens", "mask"}
            self.classes = nn.Embedding(num_classes + null_class, token_features)

    def embed(self, label: Tensor, cond: Conditioning, between: Tensor | None = None) -> Tensor:
        if not self.class_token:
            return super().embed(label, cond, between)
        check_conditioning(cond, self.conditioning)
        embedding: Tensor = self.time(label)
        return embedding if self.vector is None else embedding + self.vector(cond.vector)

    def context(self, label: Tensor, cond: Conditioning, between: Tensor | None = None) -> Context:
        context = super().context(label, cond, between)
        if not self.class_token:
            return context
        assert self.classes is not None
        return context._replace(tokens=self.classes(cond.class_label)[:, None])


def _per_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or min(values, default=1) < 1:
        raise ValueError(f"{name}={value}: it must be a number of at least 1, or {levels} of them, one a level.")
    return values
