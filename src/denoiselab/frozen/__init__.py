"""What runs use and do not train, from local files: autoencoders, encoders, perceptual distances; tokenizers.

A folder that is missing, damaged, changed or of another kind is a `ValueError`.
"""

from denoiselab.frozen.autoencoders import DCCodec, KLCodec, RAECodec, TinyCodec, VQCodec
from denoiselab.frozen.ldm_text import LDMTextEncoder
from denoiselab.frozen.perceptual import LPIPS, EfficientNetDistance
from denoiselab.frozen.representations import FrozenEncoder, FrozenFeatures, RepresentationAutoencoder
from denoiselab.frozen.text_encoders import TextEncoder
from denoiselab.frozen.tokenizers import BytePairs

__all__ = [
    "LPIPS",
    "BytePairs",
    "DCCodec",
    "EfficientNetDistance",
    "FrozenEncoder",
    "FrozenFeatures",
    "KLCodec",
    "LDMTextEncoder",
    "RAECodec",
    "RepresentationAutoencoder",
    "TextEncoder",
    "TinyCodec",
    "VQCodec",
]
