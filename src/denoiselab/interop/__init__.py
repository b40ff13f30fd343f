"""Weights of others: read into our networks, with their schedule and parameterization, and written back."""

from denoiselab.interop.imported import Imported, Source
from denoiselab.interop.weights.state_dicts import InteropError

__all__ = ["Imported", "InteropError", "Source"]
