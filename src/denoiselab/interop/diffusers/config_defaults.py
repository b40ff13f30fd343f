"""The fields of diffusers' configurations: their defaults, and a check that each is either used or at its default."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import InteropError

_log = logging.getLogger(__name__)

# Defaults of fields that a configuration leaves out, from the signatures of diffusers' classes.
_AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}
_UNET: dict[str, Any] = {
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "time_embedding_type": "positional",
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "center_input_sample": False,
    **dict.fromkeys(("sample_size", "time_embedding_dim", "class_embed_type", "num_class_embeds"), None),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        **_UNET,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (224, 448, 672, 896),
        "downsample_type": "conv",
        "upsample_type": "conv",
        "add_attention": True,
        **dict.fromkeys(("attn_norm_num_groups", "num_train_timesteps"), None),
    },
    "UNet2DConditionModel": {
        **_UNET,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "resnet_out_scale_factor": 1.0,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
        "addition_embed_type_num_heads": 64,
        **dict.fromkeys(
            (
                *("reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type"),
                *("num_attention_heads", "addition_embed_type", "addition_time_embed_dim", "time_embedding_act_fn"),
                *("timestep_post_act", "time_cond_proj_dim", "projection_class_embeddings_input_dim"),
                *("mid_block_only_cross_attention", "cross_attention_norm"),
            ),
            None,
        ),
        **dict.fromkeys(
            (
                *("only_cross_attention", "dual_cross_attention", "use_linear_projection"),
                *("upcast_attention", "resnet_skip_time_act", "class_embeddings_concat"),
            ),
            False,
        ),
    },
    "DiTTransformer2DModel": {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "num_layers": 28,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "attention_bias": True,
        "sample_size": 32,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
        "norm_eps": 1e-5,
        "out_channels": None,
        "upcast_attention": False,
        "norm_elementwise_affine": False,
    },
    "Transformer2DModel": {
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "num_layers": 1,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "activation_fn": "geglu",
        "norm_type": "layer_norm",
        "norm_elementwise_affine": True,
        "norm_eps": 1e-5,
        "attention_type": "default",
        **dict.fromkeys(
            (
                *("in_channels", "out_channels", "cross_attention_dim", "sample_size", "num_vector_embeds"),
                *("patch_size", "num_embeds_ada_norm", "caption_channels", "interpolation_scale"),
                *("use_additional_conditions",),
            ),
            None,
        ),
        **dict.fromkeys(
            (
                *("attention_bias", "use_linear_projection", "only_cross_attention", "double_self_attention"),
                *("upcast_attention",),
            ),
            False,
        ),
    },
    "AutoencoderKL": {
        **_AUTOENCODER,
        "latent_channels": 4,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        **dict.fromkeys(("shift_factor", "latents_mean", "latents_std"), None),
    },
    "VQModel": {
        **_AUTOENCODER,
        "latent_channels": 3,
        "num_vq_embeddings": 256,
        "norm_type": "group",
        "vq_embed_dim": None,
        "lookup_from_codebook": False,
        "force_upcast": False,
    },
    "AutoencoderTiny": {
        "in_channels": 3,
        "out_channels": 3,
        "encoder_block_out_channels": (64, 64, 64, 64),
        "decoder_block_out_channels": (64, 64, 64, 64),
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "latent_channels": 4,
        "upsampling_scaling_factor": 2,
        "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1),
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "force_upcast": False,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
    "AutoencoderDC": {
        "in_channels": 3,
        "latent_channels": 32,
        "attention_head_dim": 32,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
        "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
        "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
        "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
        "upsample_block_type": "pixel_shuffle",
        "downsample_block_type": "pixel_unshuffle",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
        "scaling_factor": 1.0,
    },
}

# Fields that do not change outputs: of precision, or of parts that other fields enable, which are refused.
_NEUTRAL = frozenset(
    {
        *("addition_embed_type_num_heads", "addition_time_embed_dim", "force_upcast", "num_train_timesteps"),
        *("projection_class_embeddings_input_dim", "upcast_attention"),
        *("latent_magnitude", "latent_shift"),  # of latents stored in bytes
    }
)

# Fields that diffusers' EMAModel adds to the configuration of the average.
_OF_AVERAGES = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)


class Fields(Mapping[str, Any]):
    """A configuration completed with diffusers' defaults; it records which fields are read.

    Args:
        config: Content of a `config.json`.
        defaults: Of its class.
    """

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._defaults, self._values = defaults, {**defaults, **config}
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def check(self) -> None:
        """Check that fields that were not read have their defaults; warn of unknown ones."""
        for name, default in self._defaults.items():
            value = self._values[name]
            if name not in self._read | _NEUTRAL and value != default:
                raise InteropError(f"{name}={value}: it must be {default}; other values are not supported.")
        unknown = [
            name
            for name, value in self._values.items()
            if name not in self._defaults.keys() | self._read | _OF_AVERAGES
            and name[:1] != "_"
            and value not in (None, False)
        ]
        if unknown:
            _log.warning(
                "unknown fields of the configuration are ignored, as diffusers does: %s",
                ", ".join(f"{name}={self._values[name]}" for name in unknown),
            )


def reads(kind: str) -> Callable[[Callable[[Fields], Layout]], Callable[[Mapping[str, Any]], Layout]]:
    """Decorator: call a reader of `Fields` with the content of a `config.json`; `kind` is the default class."""

    def decorate(reader: Callable[[Fields], Layout]) -> Callable[[Mapping[str, Any]], Layout]:
        @functools.wraps(reader)
        def read(config: Mapping[str, Any]) -> Layout:
            fields = Fields(config, DEFAULTS[config.get("_class_name", kind)])
            layout = reader(fields)
            fields.check()
            return layout

        return read

    return decorate
