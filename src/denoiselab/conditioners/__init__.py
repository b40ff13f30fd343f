"""What a batch holds, to the tensors that a network takes as conditioning."""

from denoiselab.conditioners.base import Clean, Conditioner, HeldOut, Unconditional
from denoiselab.conditioners.label import ClassLabel

__all__ = ["ClassLabel", "Clean", "Conditioner", "HeldOut", "Unconditional"]
