"""Models of other code bases: their weights in our networks, their schedule and parameterization, and back.

One file or package per code base; `weights/` reads files and maps names, `imported.py` is what every reader returns.
"""

from denoiselab.interop.imported import Imported, Source
from denoiselab.interop.weights.state_dicts import InteropError

__all__ = ["Imported", "InteropError", "Source"]
