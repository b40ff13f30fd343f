"""UniPC: a multistep predictor, and a corrector of one order more that costs no call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import X0, Eps, Lam, Reader, Space, gap, interpolation, kernel, linear
from denoiselab.schedules import Level, Schedule


class Coefficients(ABC):
    """How UniPC weighs two predictions; of more, every variant of the paper integrates their polynomial exactly."""

    # Order of a corrected run of order 2 or more; None for one above the predictor's.
    corrected_order: int | None = None

    @abstractmethod
    def share(self, h: float, exact: float) -> float:
        """The weight of the slope through two predictions, where the exact one is `exact`.

        Args:
            h: The step in half log-SNR; negative in the space of x0.
            exact: The weight that integrates their line.
        """

    def corrected(self, h: float, places: Sequence[float], exact: list[float]) -> list[float]:
        """The corrector's weights of three or more predictions: the new one, the step's own and the past ones.

        Args:
            h: As in `share`.
            places: Where the past predictions stand, from the step's start in units of its length, the newest first.
            exact: The weights that integrate the polynomial.
        """
        return exact


class VaryingCoefficients(Coefficients):
    """UniPC_v: the exact weights (Zhao et al., UniPC, arXiv 2302.04867, appendix C)."""

    def share(self, h: float, exact: float) -> float:
        """The exact weight."""
        return exact


class ReleasedVaryingCoefficients(VaryingCoefficients):
    """UniPC_v as the released code has it (`variant="vary_coeff"`), to reproduce its numbers: of order 1.

    The corrector of order 2 and more leaves out the last row of the inverse matrix, and takes the weight of the new
    prediction from the row before it alone.

    Source: Zhao et al., UniPC, arXiv 2302.04867, code (`multistep_uni_pc_vary_update`).
    """

    corrected_order = 1

    def corrected(self, h: float, places: Sequence[float], exact: list[float]) -> list[float]:
        """The released weights."""
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
        """H / (2 (e^h - 1))."""
        return 0.5 * h / math.expm1(h)


class BH2(Coefficients):
    """B(h) = e^h - 1, with 1/2 for two predictions (Zhao et al., UniPC, arXiv 2302.04867, section 3.3)."""

    def share(self, h: float, exact: float) -> float:
        """1/2."""
        return 0.5


class UniPC(Multistep):
    """UniPC for x0: UniP predicts over `order` past predictions, UniC then corrects with the new one.

    The prediction at the new level serves both the corrector of the step that led there and the next predictor, so a
    step is one call. The last state is not corrected, as no prediction is made there.

    Source: Zhao et al., UniPC, arXiv 2302.04867, algorithms 5 to 8.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        order: From 1 to 4.
        coefficients: `BH1`, `BH2`, `VaryingCoefficients` or `ReleasedVaryingCoefficients`.
        corrector: Whether to correct at all.
        skip: Numbers of a run's steps, from 0, whose result is not corrected.
        lower_order_final: As in `Multistep`.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: The order is out of range, or a number in `skip` negative.
    """

    space: Space = X0()

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        order: int = 3,
        coefficients: Coefficients | None = None,
        corrector: bool = True,
        skip: Sequence[int] = (),
        lower_order_final: bool | int = True,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, order, lower_order_final, threshold)
        if any(number < 0 for number in skip):
            raise ValueError(f"skip={list(skip)}: steps are counted from 0.")
        self.coefficients, self.corrector, self.skip = coefficients or BH2(), corrector, frozenset(skip)
        self.order = self.whole(order + 1 if corrector else order)
        if corrector and order > 1 and self.coefficients.corrected_order is not None:
            self.order = self.coefficients.corrected_order

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """The predictor's, or with `there` first among the nodes, the corrector's (whose step starts at the second)."""
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
        """The steps; each corrects the state that the one before reached."""
        count = len(levels) - 1
        steps: list[Planned] = []
        correction: Sequence[float] | None = None
        for i in range(count):
            nodes, there = self.nodes(levels, i, count - i + to_come), levels[i + 1]
            read = self.space.reader(schedule, nodes[0])
            keep, gain = self.space.move(nodes[0], there)
            predictor = [keep, *(gain * w for w in self.weights(schedule, nodes, there))]
            step = _PredictorCorrector(nodes[0], read, predictor, correction, self.terms + 1)
            steps.append(Planned(step, there))
            correction = None
            if self.corrector:
                correction = [keep, *(gain * w for w in self.weights(schedule, [there, *nodes], there))]
        return steps

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """All steps, without the corrections of those to skip.

        Raises:
            ValueError: A number in `skip` is not of a step.
        """
        steps = super().plan(schedule, levels)
        if self.skip and max(self.skip) >= len(steps):
            raise ValueError(f"skip={sorted(self.skip)}: this run's steps are 0 to {len(steps) - 1}.")
        for number in self.skip:  # the step after it corrects
            for after, _ in steps[number + 1 : number + 2]:
                if isinstance(after, _PredictorCorrector):
                    after.correction = None
        return steps


class UniPCNoise(UniPC):
    """UniPC for eps (the paper's noise prediction): as `UniPC`."""

    space = Eps()


class _PredictorCorrector:
    """A call; the correction of x with it; the prediction of the next x."""

    def __init__(
        self,
        here: Level,
        read: Reader,
        predictor: Sequence[float],
        correction: Sequence[float] | None,
        remembered: int,
    ) -> None:
        self.here, self.read, self.predictor, self.correction = here, read, predictor, correction
        self.remembered = remembered

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        """One step."""
        memory.add(self.read(denoise(x, self.here)), self.remembered)
        if self.correction is not None and memory.x is not None:
            x = linear(self.correction, (memory.x, *memory.past[: len(self.correction) - 1]))
        memory.x = x
        return linear(self.predictor, (x, *memory.past[: len(self.predictor) - 1]))
