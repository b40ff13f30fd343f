"""What a batch holds, to the tensors that a network takes as conditioning."""

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut, Unconditional
from denoiselab.conditioners.label import ClassLabel
from denoiselab.conditioners.low_resolution import LowResolution
from denoiselab.conditioners.text import Text, TextEncoder

__all__ = [
    "ClassLabel",
    "Clean",
    "Conditioner",
    "HeldOut",
    "LowResolution",
    "Text",
    "TextEncoder",
    "Unconditional",
]
