"""Hydra's own node: it instantiates what stands there before the program starts, so it is checked before Hydra is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from denoiselab.app.errors import BadInput

_CALLBACK = ("hydra.callbacks.sweep_table", "denoiselab.app.sweep.SweepTable")
_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")


def check_hydra(node: Mapping[str, Any]) -> None:
    """Allow Hydra's launchers and sweepers, and our one callback.

    Args:
        node: The content of `hydra`, plain containers.

    Raises:
        BadInput: Something else is to be called.
    """
    for path, name in _calls(node, "hydra"):
        plugin = path in ("hydra.launcher", "hydra.sweeper", "hydra.sweeper.sampler") and name.startswith(_PLUGINS)
        if not plugin and (path, name) != _CALLBACK:
            raise BadInput(f"{path}: {name} is not allowed there; below hydra, only its launchers and sweepers are.")


def _calls(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every (dotted path, name) that Hydra, or Python's logging, would call."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("_target_", "()") or (key == "class" and not str(value).startswith("logging.")):
                yield path, str(value)
            yield from _calls(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _calls(value, f"{path}.{index}")
