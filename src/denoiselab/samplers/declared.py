"""The properties that a sampler declares."""

from __future__ import annotations

from abc import ABC

from denoiselab.samplers.measurement import Measurement


class Declared(ABC):
    """Properties that a sampler declares. The tests check those of every sampler in conf/sampler.

    Attributes:
        convergence_order: Order of convergence on smooth problems: of the ODE's solution at the last noisy level, with
            a full history, or weak for a stochastic sampler. None if samples do not converge as steps are added.
        no_order: Why there is no order.
        calls_per_step: Network calls of a step.
        calls_at_last: Network calls of `at_last`.
        stochastic: Whether noise is drawn after x_T.
        adaptive: Whether the sampler chooses its own steps, so that its number of calls is known only afterwards.
        path_dependent: Whether steps depend on the time or the scale of the schedule, not only on its log-SNR, so that
            runs along two schedules differ by the error of the solver.
        renoises: Whether steps add a predicted noise to x0, which need not be eps (`Prediction.renoise`).
        moves_mean: Whether steps add their variance times a gradient to their mean (`Prediction.gradient`).
        measurement: What must be measured of a model before it is sampled (`Sampler.measure`); None for nothing.
    """

    convergence_order: int | None
    no_order: str = ""
    calls_per_step: int = 1
    calls_at_last: int = 0
    stochastic: bool = False
    adaptive: bool = False
    path_dependent: bool = False
    renoises: bool = False
    moves_mean: bool = False
    measurement: Measurement | None = None

    def refused(self) -> dict[str, str]:
        """Fields of predictions that the steps would pass over, each with a sentence that refuses it."""
        name, out = type(self).__name__, {}
        if not self.renoises:
            out["renoise"] = (
                f"the denoiser predicts a noise to add back to x0, and {name} adds none; use DDIM or Analytic."
            )
        if not self.moves_mean:
            out["gradient"] = (
                f"the denoiser predicts a gradient that moves the mean of ancestral steps, and {name} makes none; use "
                "Ancestral, or guidance of the form eps."
            )
        return out
