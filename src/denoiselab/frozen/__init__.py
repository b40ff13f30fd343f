"""Models of others that runs use and never train, from local folders: autoencoders and text encoders.

A folder that is missing, damaged, changed or of another kind is a `ValueError`.
"""

from denoiselab.frozen.autoencoders import KLCodec, VQCodec
from denoiselab.frozen.text_encoders import TextEncoder

__all__ = ["KLCodec", "TextEncoder", "VQCodec"]
