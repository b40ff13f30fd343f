"""Tiny models with random weights in the folders that other libraries write; and a data set with captions."""

from __future__ import annotations

import json

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from denoiselab.data import Digits, ImageSet

KL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
}
UNET2D = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 8,
}
FEATURES, LENGTH = 6, 8


def autoencoder(kind, **options):
    """An `AutoencoderKL` or `VQModel` of diffusers for grey images."""
    torch.manual_seed(0)
    return getattr(diffusers, kind)(**{**KL, **options}).eval()


def text_encoder(**options):
    """A CLIP and its tokenizer, which knows letters alone."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    sizes = {"hidden_size": FEATURES, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    given = {"vocab_size": len(words), "max_position_embeddings": LENGTH, **sizes, **ends, **options}
    config = CLIPTextConfig(**given)
    return CLIPTextModel(config).eval(), CLIPTokenizer(vocabulary, [], model_max_length=LENGTH)


def write_text_encoder(folder):
    """As in a pipeline."""
    model, tokenizer = text_encoder()
    model.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "text_encoder"


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class CaptionedDigits(Digits):
    """Handwritten digits with the names of their classes."""

    def load(self):
        return tuple(
            ImageSet(part.images, part.labels, [NAMES[label] for label in part.labels.tolist()])
            for part in super().load()
        )


def edited(path, **changes):
    """Change a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class HalfCaptionedDigits(CaptionedDigits):
    """The same, where zeros have no name."""

    def load(self):
        return tuple(
            ImageSet(part.images, part.labels, [NAMES[label] if label else " " for label in part.labels.tolist()])
            for part in super().load()
        )


class HeldOutHalfCaptionedDigits(CaptionedDigits):
    """The same, where zeros of held-out data alone have none."""

    def load(self):
        train, held_out = super().load()
        texts = [text if text != NAMES[0] else " " for text in held_out.captions]
        return train, ImageSet(held_out.images, held_out.labels, texts)
