"""Butcher tableaus of explicit Runge-Kutta rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau.

    Args:
        order: Order of convergence.
        nodes: Places of the stages after the first, as fractions of the step.
        rows: For each of them, the weights of the stages before it.
        weights: Weights of all stages in the result.
    """

    order: int
    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


def euler() -> Tableau:
    """Euler's rule; in rho it is DDIM."""
    return Tableau(1, (), (), (1.0,))


def midpoint() -> Tableau:
    """The midpoint rule."""
    return Tableau(2, (0.5,), ((0.5,),), (0.0, 1.0))


def heun() -> Tableau:
    """Heun's second-order rule."""
    return Tableau(2, (1.0,), ((1.0,),), (0.5, 0.5))


def ralston() -> Tableau:
    """Ralston's second-order rule, of the least error bound."""
    return Tableau(2, (2 / 3,), ((2 / 3,),), (0.25, 0.75))


def kutta3() -> Tableau:
    """Kutta's third-order rule."""
    return Tableau(3, (0.5, 1.0), ((0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))


def heun3() -> Tableau:
    """Heun's third-order rule."""
    return Tableau(3, (1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3)), (0.25, 0.0, 0.75))


def ralston3() -> Tableau:
    """Ralston's third-order rule."""
    return Tableau(3, (0.5, 0.75), ((0.5,), (0.0, 0.75)), (2 / 9, 1 / 3, 4 / 9))


def ssprk3() -> Tableau:
    """Shu and Osher's strong-stability-preserving third-order rule."""
    return Tableau(3, (1.0, 0.5), ((1.0,), (0.25, 0.25)), (1 / 6, 1 / 6, 2 / 3))


def rk4() -> Tableau:
    """The classical fourth-order rule."""
    return Tableau(4, (0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
