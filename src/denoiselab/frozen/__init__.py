"""What runs use and never train: autoencoders and text encoders of others, from local folders; tokenizers.

A folder that is missing, damaged, changed or of another kind is a `ValueError`.
"""

from denoiselab.frozen.autoencoders import KLCodec, VQCodec
from denoiselab.frozen.ldm_text import LDMTextEncoder
from denoiselab.frozen.text_encoders import TextEncoder
from denoiselab.frozen.tokenizers import BytePairs

__all__ = ["BytePairs", "KLCodec", "LDMTextEncoder", "TextEncoder", "VQCodec"]
