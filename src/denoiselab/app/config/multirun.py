"""What the overrides of a multirun and of its jobs say about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from denoiselab.app.config import overrides
from denoiselab.errors import BadInput


def representatives(jobs: Sequence[Sequence[str]]) -> list[bool]:
    """Which jobs to check in full: those with a new set of choices of groups, or with a new value of an option."""
    seen: set[object] = set()
    groups = {key for key in {key for job in jobs for _, key in _keys(job)} if overrides.is_group(key)}
    out = []
    for job in jobs:
        found: set[object] = {*job, tuple(text for text, key in _keys(job) if key in groups)}
        out.append(not found <= seen)
        seen |= found
    return out


def sweep_directory(config_name: str, given: Sequence[str]) -> str | None:
    """The directory of a multirun, which an option that is swept must not change; None if a sweep has to fill it."""
    fixed = [text for text, one in zip(given, overrides.parsed(given), strict=True) if not one.is_sweep_override()]
    try:
        return str(compose(config_name, fixed, return_hydra_config=True).hydra.sweep.dir)
    except BadInput:
        raise
    except (HydraException, OmegaConfBaseException, ValueError):  # refused where each job is composed
        return None


def swept_keys(given: Sequence[str], jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys of options in which jobs differ, and of the sweeps that the overrides name."""
    shared = set.intersection(*map(set, jobs)) if jobs else set()
    differing = [key for job in jobs for text, key in _keys(job) if text not in shared]
    named = [one.key_or_group for one in overrides.parsed(given) if one.is_sweep_override()]
    return [*dict.fromkeys([*named, *differing])]


def _keys(job: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each override with its key."""
    for text, one in zip(job, overrides.parsed(job), strict=True):
        yield text, one.key_or_group
