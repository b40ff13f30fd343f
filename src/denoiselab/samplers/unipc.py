"""Multistep predictors, with correctors that need no further call: UniPC, and SA-Solver for the reverse SDE."""

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
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.spacing import Spacing, VPTime
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

    def space_from(self, here: Level) -> Space:
        """The space of the step that starts at `here`."""
        return self.space

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """The predictor's weights; or, if `there` is the first of the nodes, those of the corrector."""
        here = nodes[1] if nodes[0] is there else nodes[0]
        space = self.space_from(here)
        exact = interpolation(schedule, space, Lam(), nodes, here, there)
        assert space.rate is not None
        h = -space.rate * gap(here, there)
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
            left, there = count - i + to_come, levels[i + 1]
            nodes, space = self.nodes(levels, i, left), self.space_from(levels[i])
            keep, gain = space.move(levels[i], there)
            predictor = [keep, *(gain * w for w in self.weights(schedule, nodes, there))]
            step = _PredictorCorrector(levels[i], there, space.reader(schedule, levels[i]), predictor, correction)
            step.stored, step.std = 1 + max(self.order, self.past), space.std(levels[i], there)
            steps.append(Planned(step, there))
            correction = None
            if self.corrector:
                nodes = [there, *self.nodes(levels, i, left, self.past)]
                correction = [keep, *(gain * w for w in self.weights(schedule, nodes, there))]
        return steps

    @property
    def past(self) -> int:
        """Number of predictions that the corrector uses beside the new one."""
        return self.order

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


@dataclass(eq=False)
class SASolver(UniPC):
    """SA-Solver for x0: stochastic Adams steps of the reverse SDE with noise tau, and their corrector.

    Predictor and corrector integrate the polynomial through their x0 against e^((1 + tau^2) lam), and share the draw
    of the step. tau is constant where low <= sigma / alpha <= high at the start of a step, and 0 elsewhere. tau = 0
    is UniPC with the same coefficients; without corrector a constant tau is SDE-DPM-Solver++ with eta = tau^2.

    Source: Xue et al., SA-Solver, arXiv 2309.05019, eq. 15 and 18, and its code; `BH1` is the rescaling of appendix D
    for few steps, `VaryingCoefficients` leave it out.

    Args:
        coefficients: As in `UniPC`.
        tau: Rate of noise; 1 is the reverse SDE, 0 the ODE.
        low: Least sigma / alpha at which noise is added. Default: that of t = 0.2 on the linear VP schedule.
        high: Largest sigma / alpha at which noise is added. Default: that of t = 0.8.
        corrector_order: Number of predictions of the corrector, the new one included, from 2 to order + 1.

    Raises:
        ValueError: If an option is out of range.
    """

    spacing: Spacing = field(default_factory=VPTime)
    coefficients: Coefficients = field(default_factory=BH1)
    tau: float = 1.0
    low: float = 0.72
    high: float = 25.0
    corrector_order: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("tau", self.tau)
        check_number("low", self.low)
        check_number("high", self.high, self.low)
        check_number("corrector_order", self.corrector_order, 2, self.order + 1)
        self.stochastic = self.tau > 0
        own = self.whole(min(self.order + 1, self.corrector_order) if self.corrector else self.order)
        self.convergence_order = 1 if self.stochastic else own

    @property
    def past(self) -> int:
        return self.corrector_order - 1

    def space_from(self, here: Level) -> Space:
        return X0(self.tau**2 if self.low <= float(here.rho) <= self.high else 0.0)


class _PredictorCorrector:
    # A network call, the correction of x with its prediction, and the predictor's step to the next x.
    def __init__(
        self,
        here: Level,
        there: Level,
        read: Reader,
        predictor: Sequence[float],
        correction: Sequence[float] | None,
    ) -> None:
        self.here, self.there, self.read, self.predictor, self.correction = here, there, read, predictor, correction
        self.stored, self.std = 1, 0.0

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        memory.add(self.read(denoise(x, self.here)), self.stored)
        if self.correction is not None and memory.x is not None:
            x = linear(self.correction, (memory.x, *memory.past[: len(self.correction) - 1]))
            x = x if memory.noise is None else x.add_(memory.noise)
        memory.x = x
        x = linear(self.predictor, (x, *memory.past[: len(self.predictor) - 1]))
        memory.noise = self.std * noise.between(x, self.here, self.there) if self.std else None
        return x if memory.noise is None else x.add_(memory.noise)
