"""Checks of the command line before Hydra composes: unknown keys and choices, with the closest spelling."""

from __future__ import annotations

import difflib
import itertools
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab import choices, options
from denoiselab.app.config import nodes
from denoiselab.app.config.hydra_node import CheckedLoader, parameters
from denoiselab.errors import BadInput, closest
from denoiselab.options import SPECIAL

# Nodes with an entry for each name.
_NAMED = ("callbacks", "logger", "ema.profiles")

# What other programs call our options.
_OTHER_NAMES = {
    **dict.fromkeys(("max_epochs", "epochs", "num_epochs", "max_steps", "num_steps", "train_steps"), "max_images"),
    **dict.fromkeys(("learning_rate", "base_lr"), "optimizer.lr"),
    **dict.fromkeys(("num_inference_steps", "sampling_steps"), "sampler.steps"),
    **dict.fromkeys(("cfg_scale", "guidance_scale"), "guidance"),
    **dict.fromkeys(("ema_decay", "ema_rate"), "ema.profiles.ema.images"),
    **dict.fromkeys(("checkpoint", "ckpt_path", "model"), "ckpt"),
    **dict.fromkeys(("output", "output_dir", "outdir"), "out"),
    **dict.fromkeys(("gpus", "num_gpus"), "trainer.devices"),
    "image_size": "data.shape",
    "n_samples": "num_samples",
    "prompt": "conditioner.prompts",
}


def jobs(config_name: str, overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each job: one job, or the product of all sweeps of a multirun.

    Raises:
        BadInput: An override cannot be parsed, or the configuration cannot be composed.
    """
    parsed = [_parse(text) for text in overrides]
    fixed = [text for text, o in zip(overrides, parsed, strict=True) if not (multirun and o.is_sweep_override())]
    if not multirun or any(override.key_or_group == "hydra/sweeper" for override in parsed):
        return [fixed]
    try:
        own = parameters(compose(config_name, fixed, return_hydra_config=True).hydra)
    except BadInput:
        raise
    except (HydraException, OmegaConfBaseException, ValueError):  # said better where each job is composed
        own = []
    try:
        return BasicSweeper.split_arguments([*map(_parse, own), *parsed], None)[0]
    except HydraException as error:
        raise BadInput(_one_line(error)) from None


def swept(overrides: Sequence[str], job: Sequence[str]) -> list[str]:
    """Those overrides of a job of a multirun which give several values in the multirun's own."""
    keys = {override.key_or_group for override in map(_parse, overrides) if override.is_sweep_override()}
    return [text for text in job if _parse(text).key_or_group in keys]


def given_in(node: str, overrides: Sequence[str]) -> set[str]:
    """Names of the options of a node that the overrides set, whole or in part."""
    keys = (_parse(text).key_or_group.split(".") for text in overrides)
    return {key[1] for key in keys if key[0] == node and len(key) > 1}


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of one job, without Hydra's own.

    Raises:
        BadInput: A key or a choice is unknown, or the configuration cannot be composed.
    """
    parsed = [_parse(text) for text in overrides]
    is_group = [_is_group(override) for override in parsed]
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
    except ValueError as error:  # Hydra's word on a group set to null
        raise BadInput(f"{' '.join(groups)}: {error}.") from None
    except ConfigCompositionException as error:
        if not str(error).startswith("Could not override '"):
            raise BadInput(_one_line(error)) from None
        key = str(error).split("'")[1]
        if "@" in key:
            raise BadInput(
                f"{key}: there is no such choice to change in {config_name}.py; +{key}=... adds one."
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


def choice(group: str, name: str) -> dict[str, Any]:
    """The configuration of one choice of a group, as plain containers.

    Raises:
        BadInput: There is no such choice.
    """
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    completed: dict[str, Any] = options.completed(choices.node(group, name, loader))
    return completed


def stated(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """What the files of a configuration and the overrides state, without the defaults of signatures."""
    try:
        return _loader().stated(config_name, [*overrides], RunMode.RUN)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise BadInput(_one_line(error)) from None


def stated_choice(group: str, name: str) -> tuple[str | None, Any]:
    """The path of the node that a choice makes, and what its file states; no path if it sets options elsewhere.

    Raises:
        BadInput: There is no such choice.
    """
    group, at, place = group.partition("@")
    allowed = _options(group)
    if not allowed:
        raise BadInput(f"--help {group}={name}: '{group}' is no group of choices; --help alone shows them.")
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
    path = f"{group.partition('@')[0]}/{name}.yaml"
    places = (Path(source.path, path) for source in _loader().get_sources() if source.scheme() == "file")
    return next((place.read_text(encoding="utf-8") for place in places if place.is_file()), "")


def _loader() -> CheckedLoader:
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, CheckedLoader)
    return loader


def deleted(names: Sequence[object], arguments: Sequence[str]) -> str | None:
    """The dotted key that an argument such as `~trainer.precision` deletes, if it ends in one of `names`."""
    keys = (text[1:].partition("=")[0] for text in arguments if text.startswith("~"))
    return next((key for key in keys if key.rpartition(".")[2] in names), None)


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        raise BadInput(f"'{text}': not an override; write it as key=value, for example seed=1.") from None


def _options(group: str) -> list[str]:
    return list(GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG))


def _is_group(override: Override) -> bool:
    return bool(GlobalHydra.instance().config_loader().get_group_options(override.key_or_group, None))


def _check_choice(override: Override) -> None:
    group, value = override.key_or_group, override.value()
    if group.startswith("hydra") or override.is_delete():
        return
    allowed = _options(group)
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
        takes, children = nodes.takes(node), _children(node)
        if part not in (children if takes is None else takes):
            raise _unknown(override, parts, depth, node, [name for name in _dotted(base) if name != key])
        if part not in children:
            return
        node = node._get_node(part) if isinstance(node, DictConfig) else node._get_node(int(part))
        if node is not None and node._is_interpolation():
            node = node._maybe_dereference_node()
    if _children(node) and override.value() == {}:  # Hydra would merge it
        raise BadInput(
            f"{key}={{}}: changes nothing, as options are merged; name those to change: {key}.{_children(node)[0]}=..."
        )


def _unknown(override: Override, parts: Sequence[str], depth: int, node: Any, known: Sequence[str]) -> BadInput:
    """The error for an option whose part at `depth` is not in `node`; `known` are the options there are."""
    key, where, takes = override.key_or_group, ".".join(parts[:depth]), nodes.takes(node)
    value = "" if override.is_delete() else f"={override.get_value_element_as_str()}"
    if takes is not None:
        names = [name for name in takes if name not in SPECIAL]
        near = _suggestion(parts, depth, names, known)
        return BadInput(f"{key}{value}: unknown option; {near}{nodes.taken(node, where)}")
    children = _children(node)
    near, allowed = _suggestion(parts, depth, children, known), ", ".join(sorted(children)) or "nothing"
    inside = f"in '{where}'" if where else "at the top"
    named = where in _NAMED and value and depth + 1 == len(parts)
    more = f" (+{key}={{_target_: ...}} adds one)" if named else ""
    return BadInput(f"{key}{value}: unknown option; {near}allowed {inside}: {allowed}{more}.")


def _suggestion(parts: Sequence[str], depth: int, children: Sequence[str], known: Sequence[str]) -> str:
    """`did you mean 'x'? `, or nothing: what other programs call it, the closest spelling, or its place.

    Args:
        parts: Of the key.
        depth: Of the first one that is unknown.
        children: What is allowed instead.
        known: All keys.
    """
    leaf, leaves = parts[-1], {name.rpartition(".")[2]: name for name in reversed(known)}
    if _OTHER_NAMES.get(leaf) in known and leaf not in leaves:
        return _meant([_OTHER_NAMES[leaf]])
    if near := difflib.get_close_matches(parts[depth], children, n=1, cutoff=0.6):
        return _meant([".".join([*parts[:depth], near[0], *parts[depth + 1 :]])])
    places = [name for name in known if name.endswith(f".{'.'.join(parts)}")]
    if places:
        highest = min(place.count(".") for place in places)
        return _meant([place for place in places if place.count(".") == highest][:3])
    return _meant([leaves[near] for near in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)])


def _meant(keys: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, keys))}? " if keys else ""


def _children(node: Any) -> list[str]:
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        return [str(key) for key in node]
    if isinstance(node, ListConfig) and not node._is_none():
        return [str(index) for index in range(len(node))]
    return []


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in _children(node):
            yield f"{prefix}{key}"
            yield from _dotted(node._get_node(key), f"{prefix}{key}.")


def _one_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = " ".join(line.strip() for line in f"{error} {cause or ''}".splitlines() if line.strip())
    return text.split(" full_key:")[0]
