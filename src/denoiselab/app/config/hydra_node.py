"""Checks of Hydra's own node, whose targets are called before the program starts."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab.app.config import nodes
from denoiselab.errors import BadInput
from denoiselab.nodes.search_path import Loader

Node = dict[str, Any]

# What the command line may set, beside silence: hydra/job_logging=none, hydra/hydra_logging=disabled and so on.
_OPEN = ("launcher", "sweeper", "sweep", "verbose", "mode")
_SILENCE = ("none", "disabled")

# What Hydra fills in for each job, and what is checked by itself.
_APART = (
    *("hydra.runtime", "hydra.overrides", "hydra.sweeper.params"),
    *(f"hydra.job.{name}" for name in ("override_dirname", "id", "num")),
)

_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")

# What a sweeper may be given: samplers as Optuna exports them, and what Hydra's Optuna plugin makes some of them by. A
# longer name could reach any module that these import.
_SAMPLERS = re.compile(
    r"optuna\.samplers\.(nsgaii\.)?[A-Z]\w*|hydra_plugins\.hydra_optuna_sweeper\._impl\.create_nsgaiii?_sampler"
)


class CheckedLoader(Loader):
    """Composes configurations whose node `hydra` is that of the program's own file and of the command line.

    Hydra calls its targets: callbacks, logging handlers, launchers, the jobs of a sweep. All of it comes from
    here, also in the processes of a launcher. A file that is chosen, such as an experiment, may set no more of it than
    the parameters of a sweep, whose jobs are composed here too.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The configuration, checked."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        typed = tuple(str(one.input_line) for one in parsed if one.is_hydra_override())
        rest = run_mode, from_shell, validate_sweep_overrides
        config = self.stated(config_name, overrides, *rest)
        nodes.complete(config)
        if not any(one.key_or_group == "data.size" for one in parsed):
            nodes.shorten(config)
        if overrides:
            own, asked = (self._of_hydra(config_name, some) for some in ((), typed))
            _check_typed(asked, own, typed)
            _check_chosen(config.hydra, asked, parsed)
            if any(asked[part] != own[part] for part in ("launcher", "sweeper")):
                _check_plugins(config.hydra)
        return config

    def stated(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode = RunMode.RUN,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """What files and overrides state, unchecked and without the defaults of signatures.

        Jobs that differ in values alone share the work of composing their files.
        """
        parsed = OverridesParser.create().parse_overrides(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        fixed = [one for one in parsed if not one.is_sweep_override()]
        is_value = [self._is_value(one) for one in fixed]
        files = tuple(str(one.input_line) for one, value in zip(fixed, is_value, strict=True) if not value)
        try:
            composed = self._of_files(config_name, files, RunMode.RUN)
        except ConfigCompositionException:
            if run_mode is RunMode.RUN:
                raise
            composed = self._of_files(config_name, files, run_mode)  # a sweep may fill what a file leaves open
        config = copy.deepcopy(composed)
        ConfigLoaderImpl._apply_overrides_to_config([*itertools.compress(fixed, is_value)], config)
        own = [one for one in parsed if not one.is_hydra_override()]
        config.hydra.overrides.task = [one.input_line for one in own]
        typed = [(one.input_line, value) for one, value in zip(fixed, is_value, strict=True) if one.is_hydra_override()]
        if config.hydra.overrides.hydra == [text for text, value in typed if not value]:  # else a file has set it
            config.hydra.overrides.hydra = [text for text, _ in typed]
        style = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
        )
        return config

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a value, rather than choosing a file."""
        choice = self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
        return not (choice or override.package is not None)

    @functools.lru_cache(maxsize=8)  # noqa: B019  # as long-lived as the program
    def _of_hydra(self, config_name: str | None, typed: tuple[str, ...]) -> Node:
        """The node `hydra` of the program's own file with overrides of it."""
        return _plain(self.stated(config_name, [*typed], validate_sweep_overrides=False))

    @functools.lru_cache(maxsize=64)  # noqa: B019  # as long-lived as the program
    def _of_files(self, config_name: str | None, overrides: tuple[str, ...], run_mode: RunMode) -> DictConfig:
        """What files state, with choices such as `threshold@sampler.threshold=clip` added where there is none yet."""
        added: dict[str, str] = {}
        while True:
            try:
                written = [added.get(text, text) for text in overrides]
                return super().load_configuration(config_name, written, run_mode, validate_sweep_overrides=False)
            except ConfigCompositionException as error:
                adding = re.search(r"append to your default list use (\+[^+\s]+@\S+)", str(error))
                absent = [o for o in overrides if adding and f"+{o}".startswith(adding[1]) and o not in added]
                if not absent:
                    raise
                added |= {text: f"+{text}" for text in absent}

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The choices of a group; Hydra's own method copies all folders' sources first, 250 times in `--help`."""
        return self.repository.get_group_options(group_name, results_filter)

    def _compose_config_from_defaults_list(self, *arguments: Any, **options: Any) -> DictConfig:
        """What the files state; overrides may add options to its nodes with a `_target_`."""
        config = super()._compose_config_from_defaults_list(*arguments, **options)
        nodes.open_(config)
        return config


def parameters(node: DictConfig) -> list[str]:
    """The overrides that the node `hydra` of a composed configuration has a sweep begin with."""
    try:
        found = OmegaConf.select(node, "sweeper.params")
        content: Any = OmegaConf.to_container(found, resolve=True) if found else {}
        return [f"{key}={value}" for key, value in content.items()]
    except (OmegaConfBaseException, AttributeError, ValueError) as error:
        raise BadInput(f"hydra.sweeper.params: {' '.join(str(error).split())}.") from None


def _plain(config: DictConfig) -> Node:
    content = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _check_typed(asked: Node, own: Node, typed: Sequence[str]) -> None:
    """Refuse a command line that sets an option of hydra that it may not."""
    own = {**own, "job": {**own["job"], "name": asked["job"]["name"]}}  # which Lightning sets for its other processes
    for key in own.keys() | asked.keys():
        silent = key.endswith("_logging") and asked.get(key) in [_silence(key, name) for name in _SILENCE]
        if (
            key not in _OPEN
            and not silent
            and (path := _difference({key: own.get(key)}, {key: asked.get(key)}, "hydra"))
        ):
            raise BadInput(
                f"{' '.join(typed)}: {path} is not allowed; of hydra, the command line may set launcher, sweeper, "
                f"sweep and verbose, and hydra/job_logging and hydra/hydra_logging can be {' or '.join(_SILENCE)}."
            )


@functools.cache
def _silence(group: str, name: str) -> Any:
    """One of Hydra's own choices of logging."""
    path = Path(hydra.__file__).parent / "conf" / "hydra" / group / f"{name}.yaml"
    return OmegaConf.to_container(OmegaConf.load(path))


def _check_chosen(node: DictConfig, asked: Node, parsed: Sequence[Override]) -> None:
    """Refuse a node hydra of which a chosen file has set an option."""
    found: Any = OmegaConf.to_container(node, resolve=False)
    given = {
        "task": [one.input_line for one in parsed if not one.is_hydra_override()],
        "hydra": [one.input_line for one in parsed if one.is_hydra_override()],
    }
    path = _difference(asked, found, "hydra") or _difference(given, found["overrides"], "hydra.overrides")
    if path:
        raise BadInput(
            f"{path}: not allowed in a chosen file, which may set hydra.sweeper.params only; set other options of "
            "hydra on the command line."
        )
    for text in parameters(node):
        if OverridesParser.create().parse_override(text).is_hydra_override():
            raise BadInput(f"hydra.sweeper.params: {text} is not allowed; a sweep is over the program's own options.")


def _check_plugins(node: DictConfig) -> None:
    """Refuse what is not a launcher or sweeper of Hydra, or calls something else than Optuna's samplers."""
    for part in ("launcher", "sweeper"):
        content = _resolved(node, part)
        for path, name in _calls(content, f"hydra.{part}"):
            plugin = path == f"hydra.{part}" and name.startswith(_PLUGINS)
            if not plugin and not (path.startswith("hydra.sweeper.sampler") and _SAMPLERS.fullmatch(name)):
                raise BadInput(
                    f"{path}: {name} is not allowed there; hydra.{part} takes plugins of Hydra only, and "
                    "hydra.sweeper.sampler Optuna's samplers."
                )
        if isinstance(content, Mapping) and content.get("custom_search_space") is not None:
            raise BadInput(
                f"hydra.{part}.custom_search_space={content['custom_search_space']}: is not allowed, as it calls a "
                "function by its name; give the search space as overrides, optimizer.lr='interval(1e-4,1e-2)'."
            )


def _resolved(node: DictConfig, part: str) -> Any:
    try:
        value = node[part]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise BadInput(f"hydra.{part}: {' '.join(str(error).split())}.") from None


def _calls(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every (dotted path, name) that Hydra would call."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, str(node["_target_"])
        for key, value in node.items():
            yield from _calls(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _calls(value, f"{path}.{index}")


def _difference(one: Any, other: Any, path: str) -> str | None:
    """The dotted path of the first difference between two trees."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            here = f"{path}.{key}"
            if here not in _APART and (found := _difference(one.get(key), other.get(key), here)) is not None:
                return found
        return None
    return None if one == other else path
