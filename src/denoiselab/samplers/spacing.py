"""Grids: the levels at which a sampler stops. A grid is not a schedule; any sampler takes any grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.samplers.beta_quantiles import beta_quantiles
from denoiselab.schedules import Level, Schedule, VPLinear

# Where grids in log-SNR begin after pure noise.
_FIRST_LAM = -5.0


class Spacing(ABC):
    """Chooses the levels of a run, from noise to data, in float64.

    Args:
        to_clean: The last level is clean data (sigma = 0), reached by one x0 transfer. Otherwise it is the last
            noisy one.
        first_lam: Half log-SNR at which the grid starts, if the schedule begins with more noise: at the noisiest level
            (of a discrete schedule, trained level) that is not below. None for the schedule's own choice
            (`Schedule.start`): its first level, but a chain of betas that ends below -5.1 starts above that. -inf for
            the first level in any case.
    """

    # Whether the transfer to clean data is one of the run's steps, so that `lower_order_final` counts it.
    end_is_step: bool = True

    def __init__(self, to_clean: bool = True, first_lam: float | None = None) -> None:
        self.to_clean, self.first_lam = to_clean, first_lam

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        """The `steps + 1` levels of a run of `steps` steps (the released rules of DDIM may make another number)."""
        if self.to_clean:
            return [*self.levels(schedule, steps).unbind(), Level.clean()]
        return self.levels(schedule, steps + 1).unbind()

    @abstractmethod
    def levels(self, schedule: Schedule, count: int) -> Level:
        """The `count` noisy levels, `(count,)`, the noisiest first."""

    def _along(
        self,
        schedule: Schedule,
        count: int,
        warp: Callable[[Tensor], Tensor],
        unwarp: Callable[[Tensor], Tensor],
        placed: Callable[[int], Tensor] | None = None,
    ) -> Level:
        """Levels at fractions of `warp(lam)`; the ends are the grid's own, whatever the inverse rounds to."""
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


class PowerTime(Spacing):
    """Equal steps in t^(1/rho); with `to_clean` the grid runs on to t = 0 (or from t_min).

    rho = 2 is DPM-Solver's `time_quadratic` and DEIS's usual choice.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 4 and appendix; Lu et al., arXiv 2206.00927, appendix.

    Args:
        rho: The power; larger puts more levels near the data.
        to_clean: As in `Spacing`.
        to_t_min: With `to_clean`, the last noisy level is the one at t_min, as in the time steps of EDM's `vp`
            (arXiv 2206.00364, table 1) and of Song et al.'s SDEs (arXiv 2011.13456, code).
        first_lam: As in `Spacing`.

    Raises:
        ValueError: `rho` is not positive.
    """

    def __init__(
        self, rho: float = 1.0, to_clean: bool = True, to_t_min: bool = False, first_lam: float | None = None
    ) -> None:
        super().__init__(to_clean, first_lam)
        self.rho, self.to_t_min = _positive("rho", rho), to_t_min

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        power, start = 1 / self.rho, schedule.start(self.first_lam)
        first, least = start**power, schedule.t_min**power
        last = max(first / count, least) if self.to_clean and not self.to_t_min else least
        t = (first + fractions(count) * (last - first)) ** self.rho
        t[0] = start
        if last == least and count > 1:
            t[-1] = schedule.t_min
        return schedule.level(t)


class UniformTime(PowerTime):
    """Equal steps in t: DDPM's and DDIM's respacing.

    Args:
        to_clean: As in `Spacing`.
        to_t_min: As in `PowerTime`.
        first_lam: As in `Spacing`.
    """

    def __init__(self, to_clean: bool = True, to_t_min: bool = False, first_lam: float | None = None) -> None:
        super().__init__(1.0, to_clean, to_t_min, first_lam)


class UniformLogSNR(Spacing):
    """Equal steps in half log-SNR (Lu et al., DPM-Solver, arXiv 2206.00927, section 4): k-diffusion's `exponential`.

    A grid that starts at pure noise (alpha = 0) has no finite log-SNR there: its first level is `t_max`, and the equal
    steps begin at a half log-SNR of -5, where the linear VP schedule begins.
    """

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return self._along(schedule, count, lambda lam: lam, lambda u: u)


class Karras(Spacing):
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al., EDM, arXiv 2206.00364, eq. 5).

    Pure noise at `t_max` is treated as in `UniformLogSNR`.

    Args:
        rho: The power; larger puts more levels near the data.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.

    Raises:
        ValueError: `rho` is not positive.
    """

    def __init__(self, rho: float = 7.0, to_clean: bool = True, first_lam: float | None = None) -> None:
        super().__init__(to_clean, first_lam)
        self.rho = _positive("rho", rho)

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return self._along(schedule, count, lambda lam: (-lam / self.rho).exp(), lambda u: -self.rho * u.log())


class ToZero(Spacing):
    """Equal steps in a coordinate of the log-SNR that is 0 at clean data.

    With `to_clean` they run on to 0 (or from t_min). A first level of pure noise (alpha = 0) counts as one at a half
    log-SNR of -5.
    """

    @abstractmethod
    def coordinate(self, lam: Tensor) -> Tensor:
        """The coordinate at half log-SNRs, falling in them; any shape, float64."""

    @abstractmethod
    def lam(self, coordinate: Tensor) -> Tensor:
        """Its inverse."""

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
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

    The default of DDIM and of ancestral sampling: as good as steps of the schedule's own time where that is DDPM's, and
    far better where it is not, as on EDM's, whose time is sigma.
    """

    def coordinate(self, lam: Tensor) -> Tensor:
        """The linear VP schedule's t, beyond 1 where there is more noise."""
        return VPLinear().time_of(lam)

    def lam(self, coordinate: Tensor) -> Tensor:
        """Its half log-SNR."""
        return VPLinear().level(coordinate).lam


class Asinh(ToZero):
    """Equal steps in asinh(rho / scale), rho = sigma / alpha: of log-SNR above rho = scale, of rho itself below.

    The default of most samplers: with networks on a VP and on EDM's schedule and mixtures on both, at 5 to 50 calls, no
    other grid came as near to the end of a fine run for as many samplers. Equal steps in log-SNR spend too many on
    details too fine to matter, equal steps in time suit one schedule, and grids with a long first step multiply the
    error of eps by the rho at which it is made.

    Args:
        scale: rho at which the steps turn from relative to absolute, in units of the data.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.

    Raises:
        ValueError: If `scale` is not positive.
    """

    def __init__(self, scale: float = 0.1, to_clean: bool = True, first_lam: float | None = None) -> None:
        super().__init__(to_clean, first_lam)
        self.scale = _positive("scale", scale)

    def coordinate(self, lam: Tensor) -> Tensor:
        """asinh(rho / scale)."""
        return ((-lam).exp() / self.scale).asinh()

    def lam(self, coordinate: Tensor) -> Tensor:
        """The half log-SNR of rho = scale sinh(coordinate)."""
        return -(self.scale * coordinate.sinh()).log()


class Beta(Spacing):
    """Times at equal quantiles of a Beta distribution between t_min and t_max: more of them near both ends.

    Source: Lee et al., Beta Sampling is All You Need, arXiv 2407.12173, section 4.

    Args:
        a: First shape; smaller puts more levels near the data.
        b: Second shape; smaller puts more levels near the noise.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.

    Raises:
        ValueError: A shape is not between 0.1 and 1000.
    """

    def __init__(self, a: float = 0.6, b: float = 0.6, to_clean: bool = True, first_lam: float | None = None) -> None:
        super().__init__(to_clean, first_lam)
        for name, shape in (("a", a), ("b", b)):
            if not 0.1 <= shape <= 1000:
                raise ValueError(f"{name}={shape}: it must be between 0.1 and 1000.")
        self.a, self.b = a, b

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels.

        Raises:
            ValueError: With so many of them these shapes put two in one place.
        """
        u = beta_quantiles(count, self.a, self.b)
        if not bool((u.diff() < -1e-12).all()):
            raise ValueError(f"a={self.a}, b={self.b}: these shapes do not tell {count} levels apart.")
        return schedule.level(schedule.t_min + u * (schedule.start(self.first_lam) - schedule.t_min))


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}={value}: it must be positive.")
    return value


def fractions(count: int) -> Tensor:
    """`count` numbers from 0 to 1 in equal steps, `(count,)` float64."""
    return torch.linspace(0, 1, count, dtype=torch.float64)
