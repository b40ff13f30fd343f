"""Models of other code bases: their weights in our networks, their schedule and parameterization, and back.

One file or package per code base; `weights/` reads files and maps names, `imported.py` is what every reader returns.

Readers raise `InteropError` if a file cannot be read or holds what is not supported, and writers `ValueError` if the
other code base has no such model; the message begins with the file or the option. Everywhere `state` is a state dict,
names to tensors, and `where` its file, for messages.
"""

from denoiselab.interop.imported import Imported, Source
from denoiselab.interop.weights.state_dicts import InteropError

__all__ = ["Imported", "InteropError", "Source"]
