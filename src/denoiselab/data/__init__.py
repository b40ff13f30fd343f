"""Data sets: images by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.digits import Digits
from denoiselab.data.images import ImageSet, from_uint8, to_uint8

__all__ = ["Digits", "ImageSet", "from_uint8", "to_uint8"]
