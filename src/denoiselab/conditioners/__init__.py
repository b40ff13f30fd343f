"""Raw labels to the tensors that a network takes as conditioning."""

from denoiselab.conditioners.label import ClassLabel, Unconditional

__all__ = ["ClassLabel", "Unconditional"]
