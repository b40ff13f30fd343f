"""Checks of numeric options."""

from __future__ import annotations

import math


def check_number(name: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    """Check that an option lies in [low, high]."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value}: it must be {allowed}.")


def check_positive(name: str, value: float) -> None:
    """Check that an option is positive."""
    if not value > 0:
        raise ValueError(f"{name}={value}: it must be positive.")
