"""Multistep samplers, which combine a prediction with past ones: DEIS, DPM-Solver, LMS, PNDM and UniPC."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned, Sampler, Step, check_number
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import Axis, Reader, Space, interpolation, linear
from denoiselab.schedules import Level, Schedule


class Multistep(Sampler):
    """x_s = keep x_t + gain sum_j w_j m_j (+ std z), over this prediction and up to order - 1 past ones.

    A run starts at order 1, and gains one with each step.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        order: At least 1.
        lower_order_final: Lower the order to the number of steps that are left, the transfer to clean data included. A
            number: only in runs of fewer steps (10 in the released DPM-Solver, 15 in diffusers).
        threshold: Mends each predicted x0.

    Raises:
        ValueError: The order is out of range.
    """

    space: Space
    highest: int = 4

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        order: int,
        lower_order_final: bool | int = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("order", order, 1, self.highest)
        self.terms, self.lower_order_final = order, lower_order_final
        self.order = self.whole(order)

    def whole(self, order: int) -> int:
        """The order of a whole run of a rule of that order: a last step of order k has an error of order k + 1."""
        return min(order, 3 if self.spacing.to_clean else 2) if self.lower_order_final is True else order

    @abstractmethod
    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """Weights of the predictions at `nodes`, of which the first is where the step starts; they sum to 1."""

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """The steps."""
        count = len(levels) - 1
        return [
            Planned(self.advance(schedule, self.nodes(levels, i, count - i + to_come), levels[i + 1]), levels[i + 1])
            for i in range(count)
        ]

    def nodes(self, levels: Sequence[Level], i: int, left: int) -> Sequence[Level]:
        """The levels, newest first, whose predictions step `i` combines, with `left` steps to make, it included."""
        below = self.lower_order_final
        terms = min(self.terms, left) if below is True or i + left < below else self.terms
        return levels[max(0, i - terms + 1) : i + 1][::-1]

    def advance(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> Step:
        """The step to `there` from the first of `nodes`."""
        here = nodes[0]
        keep, gain = self.space.move(here, there)
        weights = self.weights(schedule, nodes, there)
        coefficients = (keep, *(gain * w for w in weights))
        return Combination(
            here, there, self.space.reader(schedule, here), coefficients, self.terms, self.space.std(here, there)
        )


class Combination:
    """One call, then x = c_0 x + sum_j c_(j+1) m_j (+ std z).

    Args:
        here: Where the step starts.
        there: Where it lands.
        read: Reads m.
        coefficients: c_0 of x, and those of the newest predictions.
        remembered: Predictions to remember.
        std: Of the noise.
    """

    def __init__(
        self, here: Level, there: Level, read: Reader, coefficients: Sequence[float], remembered: int, std: float
    ) -> None:
        self.here, self.there, self.read = here, there, read
        self.coefficients, self.remembered, self.std = coefficients, remembered, std

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        """One step."""
        memory.add(self.read(denoise(x, self.here)), self.remembered)
        x = linear(self.coefficients, (x, *memory.past[: len(self.coefficients) - 1]))
        return x.add_(noise.between(x, self.here, self.there), alpha=self.std) if self.std else x


class Interpolating(Multistep):
    """A multistep sampler whose weights integrate the polynomial through the predictions exactly."""

    axis: Axis

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """The weights."""
        return interpolation(schedule, self.space, self.axis, nodes, nodes[0], there)
