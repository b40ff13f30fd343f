"""A frozen encoder of representations, such as DINOv2, with a decoder that is trained: a first stage."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.codecs import FirstStageNetwork
from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import Pass
from denoiselab.codecs.images import ImageAutoencoder
from denoiselab.codecs.regularisers import Penalty
from denoiselab.frozen.folders import check_sha256, configuration, folder_of
from denoiselab.networks.checks import check_sizes
from denoiselab.networks.transformer import FeedForward, TokenAttention, sincos_positions, unpatchify

_WEIGHTS = "model.safetensors"


class RepresentationAutoencoder(ImageAutoencoder):
    """The features of a frozen vision transformer as latents, and a transformer that decodes them.

    Latents are the tokens of the patches after a layer norm without weights. In training each image's are given to the
    decoder with noise of standard deviation |n|, n ~ N(0, noise^2), so that it takes samples too.

    Source: Zheng et al., Diffusion Transformers with Representation Autoencoders, arXiv 2510.11690, sections 3 and 4.3.
    Its decoder is a ViT-XL: width 1152, depth 28.

    Args:
        shape: Shape (C, H, W) of an image, grey or RGB, in [-1, 1].
        encoder: `config.json` of a folder of timm: `architecture`, `model_args` and `pretrained_cfg`.
        grid: Rows and columns of latents; images are resized to as many patches of the encoder. None for the patches of
            the image itself.
        width: Features of a token of the decoder, divisible by 4 and by `heads`.
        depth: Number of its blocks.
        heads: Of each of its attentions.
        mlp_ratio: Hidden features of its feed-forward layers, as a multiple of `width`.
        noise: Of the latents in training.
        scale: Factor on latents, one number or one a channel.
        shift: Subtracted from latents before they are scaled, one number or one a channel.

    Raises:
        ValueError: If timm is not installed or has no such encoder of patches, a value is out of range, or sizes do not
            divide each other.
    """

    def __init__(
        self,
        shape: Sequence[int],
        encoder: Mapping[str, Any],
        grid: Sequence[int] | None = None,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        noise: float = 0.8,
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
    ) -> None:
        check_sizes({"width": width, "depth": depth, "heads": heads})
        if width % heads or width % 4:
            raise ValueError(f"width={width}: heads={heads} and 4 must divide it.")
        if not noise >= 0:
            raise ValueError(f"noise={noise}: it must be at least 0.")
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"shape={list(shape)}: an encoder of representations takes grey or RGB images, (C, H, W).")
        with torch.device("meta"):
            patch = _vit(encoder, None).patch_embed.patch_size[0]
        rows, columns = [size // patch for size in shape[1:]] if grid is None else grid
        stride = shape[1] // max(1, rows)
        if min(rows, columns) < 1 or [rows * stride, columns * stride] != list(shape[1:]):
            raise ValueError(
                f"grid={[rows, columns]}: its patches must be squares that fill images of {shape[1]}x{shape[2]}; the "
                f"encoder's have {patch} pixels."
            )
        inner = _vit(encoder, (rows * patch, columns * patch))
        features = int(inner.embed_dim)
        super().__init__(shape, features, stride, f"grid={[rows, columns]}", scale, shift)
        self.encoder = _Encoder(inner, encoder.get("pretrained_cfg", {}), (rows, columns), patch)
        self.decoder = _Decoder(
            features, shape[0], (rows, columns), stride, (width, depth, heads, int(width * mlp_ratio))
        )
        self.noise = noise

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, `(stride^2 C, width)`."""
        return self.decoder.head.weight  # type: ignore[union-attr,return-value]

    def train_pass(self, x: Tensor, normal: Normal) -> Pass:
        z = self.encode_pixels(x)
        noisy = z
        if self.noise:
            drawn = normal((1 + z[0].numel(),)).to(z)
            sigma = self.noise * drawn[:, 0].abs()
            noisy = z + sigma.view(-1, 1, 1, 1) * drawn[:, 1:].reshape(z.shape)
        return Pass(self.decoder(noisy), z)


class _Encoder(nn.Module):
    """Never trained: without gradients, and in evaluation mode."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: Any, facts: Mapping[str, Any], grid: tuple[int, int], patch: int) -> None:
        super().__init__()
        self.inner, self.grid, self.size = inner, grid, (grid[0] * patch, grid[1] * patch)
        for name in ("mean", "std"):
            numbers = torch.tensor(facts.get(name, (0.5, 0.5, 0.5)), dtype=torch.float32)
            self.register_buffer(name, numbers.view(-1, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, D, h, w)` of images `(B, C, H, W)` in [-1, 1]."""
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False)
        inner: Any = self.inner
        tokens = inner.forward_features(((x + 1) / 2 - self.mean) / self.std)[:, inner.num_prefix_tokens :]
        out: Tensor = tokens.transpose(1, 2).unflatten(2, self.grid)
        return out


class _Decoder(nn.Module):
    """A transformer from latents of any size to patches; positions are sines and cosines."""

    positions: Tensor

    def __init__(
        self, features: int, channels: int, grid: tuple[int, int], patch: int, sizes: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        width, depth, heads, hidden = sizes
        self.grid, self.patch, self.width = grid, patch, width
        self.stem = nn.Linear(features, width)
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)
        self.blocks = nn.ModuleList(_Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, patch * patch * channels)

    def forward(self, z: Tensor) -> Tensor:
        """Images `(B, C, f h, f w)` of features `(B, D, h, w)`."""
        grid = (z.shape[2], z.shape[3])
        positions = self.positions if grid == self.grid else sincos_positions(self.width, grid).to(self.positions)
        tokens = self.stem(z.flatten(2).transpose(1, 2)) + positions
        for block in self.blocks:
            tokens = block(tokens)
        return unpatchify(self.head(self.norm(tokens)), self.patch, grid)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(width), TokenAttention(width, heads)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), FeedForward(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_attention(tokens))
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out


class FrozenEncoder(nn.Module):
    """Gives a `RepresentationAutoencoder` in training the weights of its encoder, and asks nothing of its latents.

    Args:
        path: Folder of a vision transformer in timm's format, `config.json` and `model.safetensors`, such as a clone of
            timm/vit_base_patch14_reg4_dinov2.lvd142m from the hub.
        sha256: Of the folder's files; None for any.

    Raises:
        ValueError: If there is no such folder.
    """

    def __init__(self, path: str, sha256: str | None = None) -> None:
        super().__init__()
        self.path, self.sha256 = path, sha256

    def check(self, network: nn.Module) -> None:
        if not isinstance(network, RepresentationAutoencoder):
            raise ValueError(
                f"regulariser=FrozenEncoder: it is for a RepresentationAutoencoder, not for a "
                f"{type(network).__name__}; choose reconstruction@objective=kl or vq."
            )
        folder = folder_of(self.path)
        check_sha256(folder, self.sha256)
        encoder: Any = network.encoder
        with torch.device("cpu"):
            state = _vit(timm_config(self.path), encoder.size, folder).state_dict()
        if any(tensor.is_meta for tensor in encoder.parameters()):
            return
        encoder.inner.load_state_dict(state)

    def forward(self, network: FirstStageNetwork, made: Pass) -> Penalty:
        return Penalty(made.images.new_zeros((), dtype=torch.float32), {})


class FrozenFeatures:
    """The features of the patches of a vision transformer, such as DINOv2, after a layer norm without weights.

    Args:
        path: Folder of it, as of `FrozenEncoder`.
        grid: Rows and columns of patches to which images are resized; None for those of its own image size.
        sha256: Of the folder's files; None for any.

    Raises:
        ValueError: If there is no such folder, or it has no weights of a vision transformer.
    """

    def __init__(self, path: str, grid: Sequence[int] | None = None, sha256: str | None = None) -> None:
        folder, self._config = folder_of(path), timm_config(path)
        check_sha256(folder, sha256)
        with torch.device("cpu"):
            own = _vit(self._config, None, folder)
        patch = own.patch_embed.patch_size[0]
        rows, columns = own.patch_embed.grid_size if grid is None else grid
        inner = own if grid is None else _vit(self._config, (rows * patch, columns * patch), folder)
        with torch.device("cpu"):
            self._network = _Encoder(inner, self._config["pretrained_cfg"], (rows, columns), patch)
        self.channels, self.name = int(inner.embed_dim), str(self._config["architecture"])

    def __call__(self, images: Tensor) -> Tensor:
        out: Tensor = self._network.to(images.device)(images).float()
        return out


def timm_config(path: str) -> dict[str, Any]:
    """What `RepresentationAutoencoder` takes as `encoder`, of a folder of timm."""
    folder = folder_of(path)
    found = configuration(folder)
    if not isinstance(found.get("architecture"), str):
        raise ValueError(f"path={path}: its config.json names no architecture, so it is no folder of timm.")
    facts = found.get("pretrained_cfg", {})
    return {
        "architecture": found["architecture"],
        "model_args": dict(found.get("model_args", {})),
        "pretrained_cfg": {name: list(facts[name]) for name in ("mean", "std") if name in facts},
    }


def _vit(config: Mapping[str, Any], size: tuple[int, int] | None, folder: Path | None = None) -> Any:
    """The transformer, whose last norm has no weights; with those of `folder`, if that is given.

    Args:
        config: As `encoder` of `RepresentationAutoencoder`.
        size: Height and width of its images; None for its own.
        folder: Has the weights, whose positions are interpolated to `size`.
    """
    if importlib.util.find_spec("timm") is None:
        raise ValueError("encoder: it needs an extra: pip install denoiselab[extractors].")
    import timm

    if folder is not None and not (folder / _WEIGHTS).is_file():
        raise ValueError(f"path={folder}: has no {_WEIGHTS}, the weights of its encoder.")
    architecture = str(config.get("architecture"))
    where = f"encoder.architecture={architecture}" if folder is None else f"path={folder}"
    if not timm.is_model(architecture):  # other names would fetch files
        raise ValueError(f"{where}: timm has no model {architecture}.")
    name, options = (architecture, config.get("model_args", {})) if folder is None else (f"local-dir:{folder}", {})
    sizes = {} if size is None else {"img_size": size}
    try:
        inner: Any = timm.create_model(name, pretrained=folder is not None, **{**options, "num_classes": 0, **sizes})
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: timm cannot make it: {' '.join(str(error).split())}") from None
    if not all(hasattr(inner, name) for name in ("patch_embed", "num_prefix_tokens", "norm", "embed_dim")):
        raise ValueError(f"{where}: it is no vision transformer with tokens of patches.")
    inner.norm = nn.LayerNorm(inner.embed_dim, eps=1e-6, elementwise_affine=False)
    inner.fc_norm = inner.head = nn.Identity()
    return inner.eval()
