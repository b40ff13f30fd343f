"""Checks of values in the configurations of other code bases, and of the options of our modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from denoiselab.interop.weights.state_dicts import InteropError

_MOST = 1000  # layers of a kind; networks have fewer


def count(option: str, value: Any, most: int = _MOST) -> int:
    """A number of layers or classes, from 1 to `most`."""
    if type(value) is not int or not 1 <= value <= most:
        raise InteropError(f"{option}={value}: it must be a whole number from 1 to {most}.")
    return value


def positive(config: Mapping[str, Any], option: str, default: float | None = None) -> float:
    """A positive number; `default` if the configuration does not contain the option."""
    value = float(config[option] if default is None else config.get(option, default))
    if not 0 < value < math.inf:
        raise InteropError(f"{option}={value}: it must be positive and finite.")
    return value


def require_only(options: Mapping[str, Any], supported: Mapping[str, Any], other: str) -> None:
    """Check that options of our network have the only values that another code base, without second times, supports."""
    for option, value in {**supported, "second_time": False}.items():
        if options.get(option, value) != value:
            raise ValueError(f"network.{option}={options[option]}: {other} supports only {value}.")


def completed(module: type[nn.Module], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one of our modules, with its defaults for those left out."""
    parameters = inspect.signature(module).parameters
    return {name: options.get(name, parameter.default) for name, parameter in parameters.items()}
