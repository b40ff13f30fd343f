"""Closed-form denoisers in the place of trained ones."""

from __future__ import annotations

from torch import Tensor, nn

from denoiselab.analytic import ClosedForm
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, Output, Prediction, ScaledTime
from denoiselab.errors import BadInput
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.parameterizations import x0
from denoiselab.schedules import Level, Schedule


class ExactDenoiser(Denoiser):
    """A closed form as a denoiser: it has no weights, and takes no conditioning.

    Args:
        closed: Computes on the CPU.
        schedule: Its home schedule.
    """

    def __init__(self, closed: ClosedForm, schedule: Schedule) -> None:
        super().__init__(nn.Identity(), schedule, x0, ScaledTime())
        self.closed = closed

    def output(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Output:
        """The exact x0 as an output, `(B, *)`; `level` is scalar or `(B,)`."""
        return Output(x, self.closed(x, level).x0, level, self.parameterization(level), None)

    def forward(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Prediction:
        """The exact (x0, eps) of `x` `(B, *)` at `level` (scalar or `(B,)`, of any schedule)."""
        return self.closed(x, level)


def exact(closed: ClosedForm, schedule: Schedule) -> Model:
    """A closed-form denoiser, such as `analytic.MixtureDenoiser`, as a model, to be sampled like a trained one.

    Args:
        closed: Of the data distribution.
        schedule: Along which samplers go from noise to data.

    Raises:
        ValueError: If one of them is something else.
    """
    if not isinstance(closed, ClosedForm):
        raise BadInput(f"closed={closed!r}: it must be a closed form, such as denoiselab.analytic.GaussianDenoiser.")
    if not isinstance(schedule, Schedule):
        raise BadInput(f"schedule={schedule!r}: it must be a Schedule, such as denoiselab.schedule('flow').")
    return Model(ExactDenoiser(closed, schedule), Unconditional(), Identity(closed.shape))
