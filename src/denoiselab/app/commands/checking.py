"""Checks of the jobs of a command line before the first one starts."""

from __future__ import annotations

import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab import progress
from denoiselab.app.config import multirun, overrides, resolvers, stages
from denoiselab.app.config.early import check_trust
from denoiselab.app.config.settings import Config, replaced
from denoiselab.console import console
from denoiselab.errors import BadInput

Early = Callable[[Config], object]


class Command(Protocol):
    """What a module of `denoiselab.app.commands` that is a program has."""

    @staticmethod
    def check(config: Config, *, sweeping: bool) -> object:
        """Check all that can be checked before anything is built.

        Raises:
            BadInput: If an option is wrong.
        """

    @staticmethod
    def run(config: Config, directory: Path | None) -> object:
        """Run a job.

        Args:
            config: As it was checked.
            directory: Of a job of a multirun.

        Returns:
            Of a job of a sweep, the value that it is to minimise.
        """


def checked(
    name: str,
    jobs: Sequence[Sequence[str]],
    arguments: Namespace,
    early: Early,
    show: dict[str, bool],
    command: Callable[[], Command],
    *,
    sweeping: bool = False,
) -> list[Config]:
    """The configurations of jobs, all checked early, and those in full that differ in more than one known value."""
    configs = []
    for job in jobs:
        config = overrides.composed(name, job)
        if arguments.cfg is None:
            own = plain(config, job)
            show["traceback"] |= bool(own.get("traceback"))
            for one in stages.runs(own):
                check_trust(one, arguments.overrides)
                early(one)
            configs.append(own)
    if configs and "torch" not in sys.modules:
        console(stderr=True).print(f"{name}.py: loading torch.")
    whole = [*itertools.compress(configs, multirun.representatives(jobs))]
    with progress.bar("checks", len(whole), unit="job", shown=len(jobs) > 1) as bar:
        for own in whole:  # what follows imports the parts, which takes seconds
            command().check(own, sweeping=sweeping)
            bar.update(1)
    return configs


def plain(config: DictConfig, given: Sequence[str]) -> Config:
    """The configuration as plain containers, without defaults that refine an option of the evaluation given.

    Its `stages`, if there are any, are their whole configurations.
    """
    out = _resolved(config, given)
    if own := [_resolved(stage, given) for stage in stages.split(config)]:
        out["stages"] = own
    return out


def _resolved(config: DictConfig, given: Sequence[str]) -> Config:
    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise BadInput(resolvers.reason(error, config)) from None
    assert isinstance(content, dict)
    out = {str(key): value for key, value in content.items()}
    if isinstance(evaluation := out.get("evaluation"), dict):
        names = overrides.given_in("evaluation", given)
        out["evaluation"] = replaced(evaluation, {key: evaluation[key] for key in evaluation if key in names})
    return out
