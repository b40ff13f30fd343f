"""Overrides of the command line: their composition, and errors for unknown options and choices."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab import choices
from denoiselab.app.config import nodes
from denoiselab.app.config.hydra_node import parameters
from denoiselab.app.config.suggestions import children, dotted, unknown
from denoiselab.errors import BadInput, closest
from denoiselab.nodes import options


def jobs(config_name: str, overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each job: one job, or the product of all sweeps of a multirun."""
    parsed = [_parse(text) for text in overrides]
    fixed = [text for text, o in zip(overrides, parsed, strict=True) if not (multirun and o.is_sweep_override())]
    if not multirun or any(override.key_or_group == "hydra/sweeper" for override in parsed):
        return [fixed]
    if interval := next((o for o in parsed if o.value_type is ValueType.INTERVAL_SWEEP), None):
        raise BadInput(
            f"{interval.input_line}: an interval has no grid; search it by sweep=processes sweep.sampler=tpe "
            "sweep.trials=12 (or random), or list values."
        )
    try:
        own = parameters(compose(config_name, fixed, return_hydra_config=True).hydra)
    except BadInput:
        raise
    except (HydraException, OmegaConfBaseException, ValueError):  # refused where each job is composed
        own = []
    try:
        return BasicSweeper.split_arguments([*map(_parse, own), *parsed], None)[0]
    except HydraException as error:
        raise BadInput(_one_line(error)) from None


def parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them; the caller changes none."""
    return [_parse(text) for text in overrides]


def is_group(key: str) -> bool:
    """Whether choices of files have this key."""
    return bool(loader().get_group_options(key, None))


def given_in(node: str, overrides: Sequence[str]) -> set[str]:
    """Names of the options of a node that the overrides set, whole or in part."""
    keys = (_parse(text).key_or_group.split(".") for text in overrides)
    return {key[1] for key in keys if key[0] == node and len(key) > 1}


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of one job, without Hydra's own."""
    parsed = [_parse(text) for text in overrides]
    if swept := next((one for one in parsed if one.is_sweep_override()), None):
        key, _, values = str(swept.input_line).partition("=")
        instead = (
            "give one of them"
            if loader().get_group_options(swept.key_or_group, None)
            else f"write one list as {key}=[{values}]"
        )
        raise BadInput(f"{key}={values}: several values; add -m to run one job for each, or {instead}.")
    is_group = [bool(loader().get_group_options(override.key_or_group, None)) for override in parsed]
    groups = list(itertools.compress(overrides, is_group))
    for override in itertools.compress(parsed, is_group):
        _check_choice(override)
    keys = [*itertools.compress(parsed, map(operator.not_, is_group))]
    try:
        try:
            config = compose(config_name, list(overrides))
        except ConfigCompositionException as error:
            if str(error).startswith("Could not "):
                _check_keys(keys, compose(config_name, groups))
            raise
        _check_keys([override for override in keys if not override.is_delete()], config)
        return config
    except BadInput:
        raise
    except ValueError as error:  # of Hydra, for a group set to null
        raise BadInput(f"{' '.join(groups)}: {error}.") from None
    except ConfigCompositionException as error:
        if str(error).startswith("Could not delete from config. '"):
            key = str(error).split("'")[1]
            raise BadInput(f"~{key}: no file states it, so it cannot be deleted; pass {key}=... instead.") from None
        if not str(error).startswith("Could not override '"):
            raise BadInput(_one_line(error)) from None
        key = str(error).split("'")[1]
        given = next((override for override in parsed if override.key_or_group == key), None)
        if given is not None and (tasks := _tasks_with(config_name, str(given.input_line))):
            task = compose(config_name, [text for text in groups if text.startswith("task=")]).task
            near = f"did you mean 'task.{key}s'? " if f"{key}s" in (nodes.takes(task) or []) else ""
            others = ", ".join(tasks)
            raise BadInput(
                f"{given.input_line}: not with this task, but with task={others}; {near}{nodes.taken(task, 'task')}"
            ) from None
        raise BadInput(
            f"{key}: not a choice of its own in {config_name}.py; it is part of another option "
            "(train.py: evaluation.samplers=[heun]; sample.py: spacing@sampler.spacing=karras)."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(_one_line(error)) from None


def typed(overrides: Sequence[str], key: str) -> bool:
    """Whether one of the overrides sets `key` itself."""
    return any(_parse(text).key_or_group == key for text in overrides)


def names(group: str) -> list[str]:
    """The names of a group's choices."""
    return choices.names(group, loader())


def choice(group: str, name: str) -> dict[str, Any]:
    """The configuration of one choice of a group, as plain containers."""
    out: dict[str, Any] = options.completed(choices.node(group, name, loader()))
    return out


def written(group: str, node: Mapping[str, Any]) -> str:
    """The class of a node as a user writes it: the group's choice of it with most of its options, else the class."""
    target, own = node["_target_"], options.completed(node)
    found = {name: one for name in names(group) if (one := choice(group, name))["_target_"] == target}
    named = max(found, key=lambda name: sum(found[name].get(key) == own[key] for key in own), default=None)
    return f"{group.replace('/', '.')}._target_={target}" if named is None else f"{group}={named}"


def stated(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What the files of a configuration and the overrides state, without the defaults of signatures."""
    try:
        out: DictConfig = loader().stated(config_name, [*overrides], RunMode.RUN)
        return out
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise BadInput(_one_line(error)) from None


def stated_choice(group: str, name: str) -> tuple[str | None, Any]:
    """The path of the node that a choice makes, and what its file states; no path if it sets options elsewhere."""
    group, at, place = group.partition("@")
    allowed = names(group)
    if name not in allowed:
        raise BadInput(f"--help {group}={name}: unknown; {closest(name, allowed)}allowed: {', '.join(allowed)}.")
    own = group.replace("/", ".")
    try:
        node = OmegaConf.select(stated(f"{group}/{name}", []), own, throw_on_resolution_failure=False)
    except BadInput:  # it overrides choices of the program
        node = None
    return (None, None) if node is None else (place if at else own, node)


def text_of(group: str, name: str) -> str:
    """The text of the file of a choice; empty for one that is in no file."""
    return next(iter(texts(f"{group.partition('@')[0]}/{name}.yaml")), "")


def texts(path: str) -> list[str]:
    """The texts of a file in the folders of configurations that have it, in the order in which they are searched."""
    places = (Path(source.path, path) for source in loader().get_sources() if source.scheme() == "file")
    return [place.read_text(encoding="utf-8") for place in places if place.is_file()]


def loader() -> Any:
    """What reads the folders of configurations of the running program."""
    return GlobalHydra.instance().config_loader()


def deleted(names: Sequence[object], arguments: Sequence[str]) -> str | None:
    """The dotted key that an argument such as `~trainer.precision` deletes, if it ends in one of `names`."""
    keys = (text[1:].partition("=")[0] for text in arguments if text.startswith("~"))
    return next((key for key in keys if key.rpartition(".")[2] in names), None)


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise BadInput(f"'{text}': not an override; write it as key=value, for example seed=1.") from None


def _tasks_with(config_name: str, override: str) -> list[str]:
    """The tasks of a program with which an override can be composed."""
    found = []
    for task in names("task"):
        try:
            compose(config_name, [f"task={task}", override])
        except (HydraException, OmegaConfBaseException):
            continue
        found.append(task)
    return found


def _check_choice(override: Override) -> None:
    group, value = override.key_or_group, override.value()
    if group.startswith("hydra") or override.is_delete():
        return
    allowed = names(group)
    for name in value if isinstance(value, list) else [value]:
        if name is not None and str(name) not in allowed:
            raise BadInput(f"{group}={name}: unknown; {closest(str(name), allowed)}allowed: {', '.join(allowed)}.")


def _check_keys(overrides: Sequence[Override], config: DictConfig) -> None:
    for override in overrides:
        _check_key(override, config)


def _check_key(override: Override, base: DictConfig) -> None:
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or key.startswith("hydra."):
        return
    node: Any = base
    parts = key.split(".")
    for depth, part in enumerate(parts):
        takes, here = nodes.takes(node), children(node)
        if part not in (here if takes is None else takes):
            raise unknown(override, parts, depth, node, [name for name in dotted(base) if name != key])
        if part not in here:
            return
        _check_is_no_choice(parts[: depth + 1], node, override)
        node = node._get_node(part) if isinstance(node, DictConfig) else node._get_node(int(part))
        if node is not None and node._is_interpolation():
            node = node._maybe_dereference_node()
    if children(node) and override.value() == {}:  # Hydra would merge it
        raise BadInput(
            f"{key}={{}}: changes nothing, as options are merged; name those to change: {key}.{children(node)[0]}=..."
        )


def _check_is_no_choice(parts: Sequence[str], node: Any, override: Override) -> None:
    """Refuse a choice that is written as a value, such as sampler.spacing=karras, where a part is needed."""
    key, value = ".".join(parts), override.value()
    if key != override.key_or_group or not isinstance(value, str):
        return
    group, signature = "/".join(parts), nodes.signature_of(node)
    takes = None if signature is None else signature.parameters.get(parts[-1])
    groups = {group: group}
    if takes is not None and not any(kind in takes.text for kind in ("str", "Literal", "Any")):
        groups[parts[-1]] = f"{parts[-1]}@{key}"
    for group, written in groups.items():
        if value in loader().get_group_options(group, ObjectType.CONFIG):
            raise BadInput(f"{key}={value}: it is a choice, not a value; write {written}={value}.")
    if len(groups) > 1 and takes is not None and takes.text[:1].isupper() and "$" not in value and value != "???":
        for group, written in groups.items():
            if allowed := loader().get_group_options(group, ObjectType.CONFIG):
                near = closest(value, allowed)
                raise BadInput(f"{key}={value}: no choice; {near}write {written}=NAME, one of {', '.join(allowed)}.")


def _one_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = " ".join(line.strip() for line in f"{error} {cause or ''}".splitlines() if line.strip())
    return text.split(" full_key:")[0]
