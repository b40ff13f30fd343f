"""The properties that a sampler declares."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from denoiselab.errors import BadInput
from denoiselab.samplers.measurement import Measurement


class FittedTo(NamedTuple):
    """What the numbers of a sampler were fitted to.

    Attributes:
        path: Of its file.
        weights: Name of the weights.
        sha256: Of the weights, as `model.digest` has it.
        guidance: The facts of the guidance.
    """

    path: str
    weights: str
    sha256: str
    guidance: Mapping[str, Any]

    def check_guidance(self, guidance: Mapping[str, Any]) -> None:
        """Refuse guidance of those facts if it is another one.

        Raises:
            ValueError: If it is.
        """
        if dict(guidance) != dict(self.guidance):
            fitted, given = (" ".join(f"{k}={v}" for k, v in one.items()) for one in (self.guidance, guidance))
            raise BadInput(f"sampler.path={self.path}: it was fitted with {fitted}, and not with {given}.")


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
        own_steps: Whether it runs with its own number of steps only.
        fitted: What its numbers were fitted to; None for rules that suit any model.
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
    own_steps: bool = False
    fitted: FittedTo | None = None

    def check_weights(self, sha256: Callable[[], str]) -> None:
        """Refuse weights other than those that it was fitted to, if any.

        Args:
            sha256: Gives the digest of the weights (`model.digest`).

        Raises:
            ValueError: If they are others.
        """
        if self.fitted is not None and (found := sha256()) != self.fitted.sha256:
            raise BadInput(
                f"sampler.path={self.fitted.path}: it was fitted to other weights ({self.fitted.weights}, sha256 "
                f"{self.fitted.sha256[:8]}) than these (sha256 {found[:8]}); fit one to these by task=fit_solver."
            )

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
