"""Weights of others: read into our networks, with their schedule and parameterization, and written back."""

from denoiselab.interop.imported import Imported, Source
from denoiselab.interop.reading.states import InteropError

__all__ = ["Imported", "InteropError", "Source"]
