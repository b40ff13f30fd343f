"""A schedule."""

import torch
from torch import Tensor

from denoiselab.schedules import Schedule


class PowerOfTime(Schedule):
    """sigma = t^power, alpha = sqrt(1 - sigma^2).

    Args:
        power: Above 0; noise comes later for larger ones.
        t_min: The time of the least noise, above 0.
        t_max: The time of the most noise, below 1.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(self, power: float = 1.5, t_min: float = 0.005, t_max: float = 0.9999) -> None:
        super().__init__()
        if not (power > 0 and 0 < t_min < t_max < 1):
            raise ValueError(
                f"power={power}, t_min={t_min}, t_max={t_max}: must have power > 0, 0 < t_min < t_max < 1."
            )
        self.power, self.t_min, self.t_max = power, t_min, t_max

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(1 - t^(2 power)), accurate near t = 1."""
        return torch.sqrt(-torch.expm1(2 * self.power * torch.log(t)))

    def sigma(self, t: Tensor) -> Tensor:
        """t^power."""
        return t**self.power
