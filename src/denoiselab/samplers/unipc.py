"""UniPC: a multistep predictor, and a corrector of one order more that needs no further call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.transfer import X0, Eps, Lam, Reader, Space, gap, interpolation, kernel, linear
from denoiselab.schedules import Level, Schedule


class Coefficients(ABC):
    """Weights of two predictions in UniPC; with more, all variants of the paper integrate the polynomial exactly."""

    # Convergence order of a corrected run of order 2 or more; None for one above the predictor's.
    corrected_order: int | None = None

    @abstractmethod
    def share(self, h: float, exact: float) -> float:
        """The weight of the slope through two predictions.

        Args:
            h: The step in half log-SNR; negative in the space of x0.
            exact: The weight that integrates the line through them exactly.
        """

    def corrected(self, h: float, places: Sequence[float], exact: list[float]) -> list[float]:
        """The corrector's weights of three or more predictions: at the step's end, at its start, and past ones.

        Args:
            h: As in `share`.
            places: Places of the past predictions relative to the start, in units of the step, the newest first.
            exact: The weights that integrate the polynomial exactly.
        """
        return exact


class VaryingCoefficients(Coefficients):
    """UniPC_v: the exact weights (Zhao et al., UniPC, arXiv 2302.04867, appendix C)."""

    def share(self, h: float, exact: float) -> float:
        return exact


class ReleasedVaryingCoefficients(VaryingCoefficients):
    """UniPC_v as in the released code (`variant="vary_coeff"`), to reproduce its numbers: of order 1.

    The corrector of order 2 and more leaves out the last row of the inverse matrix, and takes the weight of the new
    prediction from the row before it.

    Source: Zhao et al., UniPC, arXiv 2302.04867, code (`multistep_uni_pc_vary_update`).
    """

    corrected_order = 1

    def corrected(self, h: float, places: Sequence[float], exact: list[float]) -> list[float]:
        r = torch.tensor([*places, 1.0], dtype=torch.float64)
        powers = torch.arange(len(r), dtype=torch.float64)
        inverse = torch.linalg.inv(r[:, None] ** powers / (powers + 2).lgamma().exp())
        z, masses = kernel(-h)
        phi = z[:, None] ** (powers + 1) / (powers + 2).lgamma().exp()
        phi = (torch.tensor(masses, dtype=torch.float64)[:, None] * phi).sum(0)
        *old, new = (torch.cat((phi[:-1] @ inverse[:-1, :-1], phi[-1:] * inverse[-2, -1:])) / r).tolist()
        return [new, 1 - new - sum(old), *old]


class BH1(Coefficients):
    """B(h) = h, with 1/2 for two predictions (Zhao et al., UniPC, arXiv 2302.04867, section 3.3)."""

    def share(self, h: float, exact: float) -> float:
        return 0.5 * h / math.expm1(h)


class BH2(Coefficients):
    """B(h) = e^h - 1, with 1/2 for two predictions (Zhao et al., UniPC, arXiv 2302.04867, section 3.3)."""

    def share(self, h: float, exact: float) -> float:
        return 0.5


@dataclass(eq=False)
class UniPC(Multistep):
    """UniPC for x0: UniP predicts over `order` past predictions, UniC then corrects with the new one.

    The prediction at the new level serves the corrector of the step that led there and the next predictor, so that a
    step is one call. The last state is not corrected, because no prediction is made there.

    Source: Zhao et al., UniPC, arXiv 2302.04867, algorithms 5 to 8.

    Args:
        coefficients: `BH1`, `BH2`, `VaryingCoefficients` or `ReleasedVaryingCoefficients`.
        corrector: Whether to correct.
        skip: Numbers of steps, from 0, whose result is not corrected.

    Raises:
        ValueError: If the order is out of range, or a number in `skip` is negative or (`plan`) not that of a step.
    """

    order: int = 3
    coefficients: Coefficients = field(default_factory=BH2)
    corrector: bool = True
    skip: Sequence[int] = ()
    lower_order_final: bool | int = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(number < 0 for number in self.skip):
            raise ValueError(f"skip={list(self.skip)}: steps are counted from 0.")
        self.convergence_order = self.whole(self.order + 1 if self.corrector else self.order)
        if self.corrector and self.order > 1 and self.coefficients.corrected_order is not None:
            self.convergence_order = self.coefficients.corrected_order

    @property
    def space(self) -> Space:
        return X0()

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """The predictor's weights; or, if `there` is the first of the nodes, those of the corrector."""
        here = nodes[1] if nodes[0] is there else nodes[0]
        exact = interpolation(schedule, self.space, Lam(), nodes, here, there)
        assert self.space.rate is not None
        h = -self.space.rate * gap(here, there)
        if len(nodes) > 2 and nodes[0] is there:
            places = [gap(here, node) / gap(here, there) for node in nodes[2:]]
            return self.coefficients.corrected(h, places, exact)
        if len(nodes) != 2:
            return exact
        if nodes[0] is there:
            share = self.coefficients.share(h, exact[0])
            return [share, 1 - share]
        r = gap(nodes[1], here) / gap(here, there)
        share = self.coefficients.share(h, -exact[1] * r)
        return [1 + share / r, -share / r]

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        count = len(levels) - 1
        steps: list[Planned] = []
        correction: Sequence[float] | None = None
        for i in range(count):
            nodes, there = self.nodes(levels, i, count - i + to_come), levels[i + 1]
            read = self.space.reader(schedule, nodes[0])
            keep, gain = self.space.move(nodes[0], there)
            predictor = [keep, *(gain * w for w in self.weights(schedule, nodes, there))]
            step = _PredictorCorrector(nodes[0], read, predictor, correction, self.order + 1)
            steps.append(Planned(step, there))
            correction = None
            if self.corrector:
                correction = [keep, *(gain * w for w in self.weights(schedule, [there, *nodes], there))]
        return steps

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        steps = super().plan(schedule, levels)
        if self.skip and max(self.skip) >= len(steps):
            raise ValueError(f"skip={sorted(self.skip)}: the steps of this run are 0 to {len(steps) - 1}.")
        for number in self.skip:  # the following step makes the correction
            for after, _ in steps[number + 1 : number + 2]:
                if isinstance(after, _PredictorCorrector):
                    after.correction = None
        return steps


@dataclass(eq=False)
class UniPCNoise(UniPC):
    """UniPC for eps (the paper's noise prediction), by default with `BH1`."""

    coefficients: Coefficients = field(default_factory=BH1)

    @property
    def space(self) -> Space:
        return Eps()


class _PredictorCorrector:
    # A network call, the correction of x with its prediction, and the predictor's step to the next x.
    def __init__(
        self,
        here: Level,
        read: Reader,
        predictor: Sequence[float],
        correction: Sequence[float] | None,
        stored: int,
    ) -> None:
        self.here, self.read, self.predictor, self.correction = here, read, predictor, correction
        self.stored = stored

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        memory.add(self.read(denoise(x, self.here)), self.stored)
        if self.correction is not None and memory.x is not None:
            x = linear(self.correction, (memory.x, *memory.past[: len(self.correction) - 1]))
        memory.x = x
        return linear(self.predictor, (x, *memory.past[: len(self.predictor) - 1]))
