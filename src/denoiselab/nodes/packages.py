"""Packages outside of this one whose classes may be named in configurations, and whose `conf/` folders are searched.

A distribution names its package by an entry point of the group `denoiselab.packages`:

    [project.entry-points."denoiselab.packages"]
    mylab = "mylab"

A package that is not installed is named by the environment variable `DENOISELAB_ALLOW`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

from denoiselab.errors import BadInput, closest

GROUP = "denoiselab.packages"

# The environment variable: dotted names, separated by commas.
ALLOW_VARIABLE = "DENOISELAB_ALLOW"


def allowed() -> tuple[str, ...]:
    """The dotted names of all allowed packages, each with a dot behind it."""
    return tuple(dict.fromkeys(f"{name}." for name in (*_named(), *_installed(tuple(sys.path))) if name))


def check() -> None:
    """Check that the packages which the environment variable names can be imported; none is.

    Raises:
        BadInput: If there is no such package.
    """
    for name in _named():
        root = name.partition(".")[0]
        if root and not _exists(root):
            near = closest(root, [module.name for module in pkgutil.iter_modules()])
            raise BadInput(
                f"{ALLOW_VARIABLE}={name}: no such package; {near}allowed: packages that are installed, or in a folder "
                "of PYTHONPATH, separated by commas."
            )


def _named() -> list[str]:
    return [name.strip(" .") for name in os.environ.get(ALLOW_VARIABLE, "").split(",")]


def _exists(root: str) -> bool:
    try:
        return root in sys.modules or importlib.util.find_spec(root) is not None
    except (ImportError, ValueError):
        return False


def folders() -> dict[str, Path]:
    """Allowed packages that have a folder `conf`, and this folder. No package is imported."""
    places = {name[:-1]: folder_of(f"{name}conf") for name in allowed()}
    return {name: place for name, place in places.items() if place is not None}


def folder_of(name: str) -> Path | None:
    """The folder of a dotted name below a top-level package, which is not imported; None if there is none."""
    root, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    places = (Path(place, *rest) for place in (spec.submodule_search_locations if spec else None) or ())
    return next((place for place in places if place.is_dir()), None)


def definition(name: str) -> Any:
    """What a dotted name stands for; its module is imported.

    Raises:
        ValueError: If the module cannot be imported, or has no such name; the message says which.
    """
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of any code of the user's
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"there is no module {error.name}; check the name, and that it is installed.") from None
        reason = " ".join(str(error).split())
        raise ValueError(f"{module_name} cannot be imported ({type(error).__name__}: {reason}).") from error
    if not hasattr(module, attribute):
        near = closest(attribute, [known for known in vars(module) if not known.startswith("_")]).strip()
        raise ValueError(f"{module_name} has no {attribute}" + (f"; {near}" if near else "."))
    return getattr(module, attribute)


@functools.cache
def _installed(path: tuple[str, ...]) -> tuple[str, ...]:
    """The packages that the distributions on `sys.path` name by an entry point."""
    return tuple(sorted(entry.module for entry in importlib.metadata.entry_points(group=GROUP)))
