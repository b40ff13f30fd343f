"""What runs use and do not train, from local files: autoencoders, text encoders, perceptual distances; tokenizers.

A folder that is missing, damaged, changed or of another kind is a `ValueError`.
"""

from denoiselab.frozen.autoencoders import DCCodec, KLCodec, TinyCodec, VQCodec
from denoiselab.frozen.ldm_text import LDMTextEncoder
from denoiselab.frozen.perceptual import LPIPS, EfficientNetDistance
from denoiselab.frozen.text_encoders import TextEncoder
from denoiselab.frozen.tokenizers import BytePairs

__all__ = [
    "LPIPS",
    "BytePairs",
    "DCCodec",
    "EfficientNetDistance",
    "KLCodec",
    "LDMTextEncoder",
    "TextEncoder",
    "TinyCodec",
    "VQCodec",
]
