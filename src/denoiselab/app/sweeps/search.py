"""The jobs that a search proposes: Hydra's sweeps as a space of Optuna's, and its samplers.

Optuna is imported when a search starts, which takes two seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from denoiselab.app.config import overrides
from denoiselab.errors import BadInput

SAMPLERS = ("grid", "random", "tpe")


@dataclass(frozen=True)
class Search:
    """A search over options.

    Args:
        space: Key to distribution of Optuna's; those of categories are of texts.
        sampler: `random` or `tpe`.
        trials: Jobs in all.
        seed: Of the sampler.
        fixed: Overrides of every job.
    """

    space: Mapping[str, Any]
    sampler: str
    trials: int
    seed: int
    fixed: tuple[str, ...]

    def sampler_for(self, trials: int) -> Any:
        """Optuna's sampler for the next trial after so many; workers share no generator, so each trial has its own."""
        import optuna

        seed = (self.seed * 1_000_003 + trials) % 2**32
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def overrides(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The overrides of a trial."""
        return (*self.fixed, *(f"{key}={parameters[key]}" for key in self.space))

    @property
    def corners(self) -> list[tuple[str, ...]]:
        """Jobs in which each category and each end of an interval is once, for checks before the first trial."""
        ends = {key: _ends(distribution) for key, distribution in self.space.items()}
        first = {key: values[0] for key, values in ends.items()}
        jobs = [self.overrides(first)]
        jobs += [self.overrides({**first, key: value}) for key, values in ends.items() for value in values[1:]]
        return jobs


def search(given: Sequence[str], sampler: str, trials: int | None, seed: int) -> Search:
    """The search over the sweeps among the overrides of a command line.

    Args:
        given: The overrides.
        sampler: `random` or `tpe`.
        trials: Jobs in all.
        seed: Of the sampler.

    Raises:
        BadInput: If nothing is swept, or `trials` is missing.
    """
    parsed = overrides.parsed(given)
    swept = [one for one in parsed if one.is_sweep_override()]
    if trials is None:
        raise BadInput(f"sweep.trials: is not given, and sweep.sampler={sampler} needs it; pass sweep.trials=12.")
    if not swept:
        raise BadInput(
            f"sweep.sampler={sampler}: no option is swept; name some, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    fixed = tuple(str(one.input_line) for one in parsed if not one.is_sweep_override())
    return Search({one.get_key_element(): _distribution(one) for one in swept}, sampler, trials, seed, fixed)


def _distribution(one: Override) -> Any:
    """Optuna's distribution of a sweep."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = one.value()
    try:
        if isinstance(value, IntervalSweep):
            log, ends = "log" in value.tags, (value.start, value.end)
            low, high = cast("tuple[Any, Any]", ends)
            whole = isinstance(low, int) and isinstance(high, int)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
        if isinstance(value, RangeSweep) and value.step > 0:
            numbers: list[Any] = [*value.range()]
            log, step = "log" in value.tags, cast("Any", value.step)
            if isinstance(numbers[0], int):
                return IntDistribution(numbers[0], numbers[-1], log=log, step=step)
            return FloatDistribution(numbers[0], numbers[-1], log=log, step=None if log else step)
    except (ValueError, IndexError) as error:
        raise BadInput(f"{one.input_line}: {str(error).rstrip('.')}.") from None
    return CategoricalDistribution([*one.sweep_string_iterator()])


def _ends(distribution: Any) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    return [*dict.fromkeys([distribution.low, distribution.high])] if choices is None else [*choices]
