"""Conditioners: from labels, captions or images to the tensors that a network is conditioned on."""

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut, Unconditional
from denoiselab.conditioners.combined import Combined
from denoiselab.conditioners.inpainting import Inpainting
from denoiselab.conditioners.label import ClassLabel
from denoiselab.conditioners.low_resolution import LowResolution
from denoiselab.conditioners.semantic_map import SemanticMap
from denoiselab.conditioners.several_texts import SeveralEncoders
from denoiselab.conditioners.text import Text, TextEncoder
from denoiselab.conditioners.text_transformer import TextTransformer, Tokenizer
from denoiselab.conditioners.token_encoder import TokenEncoder

__all__ = [
    "ClassLabel",
    "Clean",
    "Combined",
    "Conditioner",
    "HeldOut",
    "Inpainting",
    "LowResolution",
    "SemanticMap",
    "SeveralEncoders",
    "Text",
    "TextEncoder",
    "TextTransformer",
    "TokenEncoder",
    "Tokenizer",
    "Unconditional",
]
