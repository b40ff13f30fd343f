"""Grids: the levels between which a sampler steps. Any sampler takes any grid, on any schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.samplers.checks import check_number, check_positive
from denoiselab.samplers.spacing.beta_quantiles import beta_quantiles
from denoiselab.schedules import Level, Schedule, VPLinear

# Half log-SNR at which grids in log-SNR start after pure noise.
_FIRST_LAM = -5.0

# Of sigma / alpha, for data of scale 1: a call outside moves x0 by some 2 % of that scale at most.
_TELLING = (0.02, 100.0)


@dataclass(eq=False)
class Spacing(ABC):
    """Chooses the levels of a run, from noise to data, in float64.

    Args:
        to_clean: Whether the last level is clean data (sigma = 0), reached by one transfer of x0. Otherwise it is the
            last noisy level.
        first_lam: Half log-SNR at which the grid starts if the schedule has noisier levels: the grid starts at the
            noisiest level (of a discrete schedule: trained level) that is not below it. None for the schedule's own
            choice (`Schedule.start`), which is its first level, except for a chain of betas that ends below -5.1: that
            starts at its last level above. -inf always starts at the first level.

    Raises:
        ValueError: If an option of this class or a subclass is out of range.
    """

    to_clean: bool = field(default=True, kw_only=True)
    first_lam: float | None = field(default=None, kw_only=True)

    # Whether the step to clean data counts as one of the run's steps, also for `lower_order_final`.
    end_is_step = True

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        """The `steps + 1` levels of a run of `steps` steps. The released rules of DDIM may give another number."""
        if self.to_clean:
            return [*self.levels(schedule, steps).unbind(), Level.clean()]
        return self.levels(schedule, steps + 1).unbind()

    def begin(self, z: Tensor, level: Level) -> Tensor:
        """Samples `(B, *)` at the first level, where z is unit noise `(B, *)`: noise alone."""
        return z * float(level.sigma)

    def nests(self, schedule: Schedule, steps: int) -> bool:
        """Whether level i of `steps` steps is level 2i of twice as many, as progressive distillation assumes.

        It compares the two grids, so it serves any grid on any schedule. With `to_clean` these nest: `UniformTime`,
        `PowerTime`, `VPTime` and `Asinh` as long as their levels stay above t_min, `Trailing`, and `WithoutLast` around
        `UniformLogSNR`, `Karras` or `Beta`, which without it do not, because their last noisy level is at t_min.
        Without `to_clean` all of equal steps nest, except those in log-SNR that start at pure noise.

        Raises:
            ValueError: If the schedule cannot have so many levels.
        """
        coarse, fine = self(schedule, steps), self(schedule, 2 * steps)
        if len(fine) != 2 * len(coarse) - 1:
            return False
        # Levels that a schedule inverts by bisection agree to some 1e-9.
        return all(a.lam == b.lam or abs(float(a.lam - b.lam)) < 1e-6 for a, b in zip(coarse, fine[::2], strict=True))

    @abstractmethod
    def levels(self, schedule: Schedule, count: int) -> Level:
        """The `count` noisy levels, `(count,)`, the noisiest first.

        Raises:
            ValueError: If the schedule cannot have so many, or `first_lam` leaves none.
        """

    def _along(
        self,
        schedule: Schedule,
        count: int,
        warp: Callable[[Tensor], Tensor],
        unwarp: Callable[[Tensor], Tensor],
        placed: Callable[[int], Tensor] | None = None,
    ) -> Level:
        """Levels at fractions of `warp(lam)`; both ends are exact, without the rounding of the inverse."""
        ends = torch.tensor([schedule.start(self.first_lam), schedule.t_min], dtype=torch.float64)
        lam = schedule.level(ends).lam
        pure = int(lam[0].isinf()) if count > 1 else 0
        first, last = warp(torch.where(lam.isinf(), _FIRST_LAM, lam))
        places = (placed or fractions)(count - pure)
        t = torch.cat((ends[:pure], schedule.time_of(unwarp(first + places * (last - first)))))
        if places[-1] == 1:
            t[-1] = ends[1]
        t[0] = ends[0]
        return schedule.level(t)


@dataclass(eq=False)
class PowerTime(Spacing):
    """Equal steps in t^(1/rho); with `to_clean` the grid continues to t = 0 (or from t_min).

    rho = 2 is DPM-Solver's `time_quadratic` and DEIS's usual choice.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 4 and appendix; Lu et al., arXiv 2206.00927, appendix.

    Args:
        rho: The power; larger values put more levels near the data.
        to_t_min: With `to_clean`, the last noisy level is at t_min, as in the time steps of EDM's `vp`
            (arXiv 2206.00364, table 1) and of Song et al.'s SDEs (arXiv 2011.13456, code).
    """

    rho: float = 3.0
    to_t_min: bool = False

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    def levels(self, schedule: Schedule, count: int) -> Level:
        power, start = 1 / self.rho, schedule.start(self.first_lam)
        first, least = start**power, schedule.t_min**power
        last = max(first / count, least) if self.to_clean and not self.to_t_min else least
        t = (first + fractions(count) * (last - first)) ** self.rho
        t[0] = start
        if last == least and count > 1:
            t[-1] = schedule.t_min
        return schedule.level(t)


@dataclass(eq=False)
class UniformTime(PowerTime):
    """Equal steps in t: DDPM's and DDIM's respacing. The arguments are those of `PowerTime`, without `rho`."""

    rho: float = field(default=1.0, init=False, repr=False)


class UniformLogSNR(Spacing):
    """Equal steps in half log-SNR (Lu et al., DPM-Solver, arXiv 2206.00927, section 4): k-diffusion's `exponential`.

    Pure noise (alpha = 0) has no finite log-SNR: if the grid starts there, its first level is `t_max`, and the equal
    steps start at a half log-SNR of -5, as the linear VP schedule does.
    """

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self._along(schedule, count, lambda lam: lam, lambda u: u)


@dataclass(eq=False)
class Karras(Spacing):
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al., EDM, arXiv 2206.00364, eq. 5).

    Pure noise at `t_max` is treated as in `UniformLogSNR`.

    Args:
        rho: The power; larger values put more levels near the data.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self._along(schedule, count, lambda lam: (-lam / self.rho).exp(), lambda u: -self.rho * u.log())


class ToZero(Spacing):
    """Equal steps in a coordinate of the log-SNR that is 0 at clean data.

    With `to_clean` they continue to 0 (or from t_min). Pure noise (alpha = 0) is placed at a half log-SNR of -5.
    """

    @abstractmethod
    def coordinate(self, lam: Tensor) -> Tensor:
        """The coordinate at half log-SNRs (any shape, float64), strictly decreasing."""

    @abstractmethod
    def lam(self, coordinate: Tensor) -> Tensor:
        """The half log-SNR at coordinates: the inverse of `coordinate`."""

    def levels(self, schedule: Schedule, count: int) -> Level:
        ends = torch.tensor([schedule.start(self.first_lam), schedule.t_min], dtype=torch.float64)
        lam = schedule.level(ends).lam
        first, least = self.coordinate(torch.where(lam.isinf(), _FIRST_LAM, lam))
        last = torch.maximum(first / count, least) if self.to_clean else least
        t = schedule.time_of(self.lam(first + fractions(count) * (last - first)))
        if last == least:
            t[-1] = ends[1]
        t[0] = ends[0]
        return schedule.level(t)


class VPTime(ToZero):
    """Equal steps in the time of the linear VP schedule, at equal log-SNR: on that schedule `UniformTime`.

    The default of DDIM and of ancestral sampling: as good as equal steps in the schedule's own time where that is
    DDPM's, and far better where it is not, as on EDM's schedule, where t = sigma.
    """

    def coordinate(self, lam: Tensor) -> Tensor:
        return VPLinear().time_of(lam)

    def lam(self, coordinate: Tensor) -> Tensor:
        return VPLinear().level(coordinate).lam


@dataclass(eq=False)
class Asinh(ToZero):
    """Equal steps in asinh(rho / scale), rho = sigma / alpha: in log-SNR where rho > scale, in rho itself below.

    The default of most samplers: with networks on a VP schedule and on EDM's, and mixtures on both, at 5 to 50 calls,
    it came nearest to the end of a fine run for the most samplers. Equal steps in log-SNR spend too many on invisible
    details, equal steps in time suit one schedule only, and a long first step multiplies the error of eps by its rho.

    Args:
        scale: rho at which the steps change from relative to absolute, in units of the data.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def coordinate(self, lam: Tensor) -> Tensor:
        return ((-lam).exp() / self.scale).asinh()

    def lam(self, coordinate: Tensor) -> Tensor:
        return -(self.scale * coordinate.sinh()).log()


@dataclass(eq=False)
class Beta(Spacing):
    """Times at equal quantiles of a Beta distribution between t_min and t_max, denser near both ends.

    Source: Lee et al., Beta Sampling is All You Need, arXiv 2407.12173, section 4.

    Args:
        a: First shape; smaller values put more levels near the data.
        b: Second shape; smaller values put more levels near the noise.

    Raises:
        ValueError: If a shape is not between 0.1 and 1000, or (`levels`) two levels coincide.
    """

    a: float = 0.6
    b: float = 0.6

    def __post_init__(self) -> None:
        check_number("a", self.a, 0.1, 1000)
        check_number("b", self.b, 0.1, 1000)

    def levels(self, schedule: Schedule, count: int) -> Level:
        u = beta_quantiles(count, self.a, self.b)
        if not bool((u.diff() < -1e-12).all()):
            raise ValueError(f"a={self.a}, b={self.b}: with these shapes two of {count} levels coincide.")
        return schedule.level(schedule.t_min + u * (schedule.start(self.first_lam) - schedule.t_min))


def fractions(count: int) -> Tensor:
    """`count` equally spaced numbers from 0 to 1, `(count,)` float64."""
    return torch.linspace(0, 1, count, dtype=torch.float64)


def is_one_call(levels: Sequence[Level]) -> bool:
    """Whether steps of constant x0 along `levels`, one call each, end where the first call alone does, to some 2 %.

    All calls after the first are then at levels of almost no noise, where x0 is x, or of almost no signal, where x0 is
    the mean of the data. `Karras`, `UniformLogSNR` and `Beta` are such grids at 2 steps: their second level has the
    schedule's least noise, as their papers and other libraries place it, or is next to pure noise. `PowerTime`,
    `VPTime`, `Asinh` and `WithoutLast` around those have a level between.
    """
    later = [float(level.rho) for level in levels[1:-1]]
    return bool(later) and not any(_TELLING[0] < rho < _TELLING[1] for rho in later)
