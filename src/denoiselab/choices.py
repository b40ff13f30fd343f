"""The shipped choices of `conf/` by name: a sampler, a schedule, a network, ... with the settings of its YAML.

Hydra reads the YAMLs, with their defaults lists; its global state is neither used nor changed, so this works inside a
program of the user's that has Hydra compose another configuration.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiselab.errors import BadInput, closest, not_given
from denoiselab.nodes import packages
from denoiselab.nodes.instantiate import check, construct
from denoiselab.nodes.options import targets

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import DictConfig

    from denoiselab.guidance import Guider
    from denoiselab.objectives import Objective
    from denoiselab.samplers import Sampler
    from denoiselab.samplers.spacing import Spacing
    from denoiselab.schedules import Schedule

Node = dict[str, Any]


def folder() -> Path:
    """The folder of the configuration: in the installed package, else in the checkout that it runs from."""
    own = Path(__file__).parent / "conf"
    return own if own.is_dir() else Path(__file__).parents[2] / "conf"


def names(group: str, loader: ConfigLoaderImpl | None = None) -> list[str]:
    """The names of a group's choices, such as of "sampler".

    Args:
        group: A folder of `conf/`.
        loader: Reads the folders; None for `folder` and those of allowed packages.

    Raises:
        ValueError: If there is no such group.
    """
    found = _names(group, loader) if isinstance(group, str) else []
    if not found:
        from hydra.core.object_type import ObjectType

        groups = (loader or _loader()).get_group_options("", ObjectType.GROUP)
        raise BadInput(f"{group}: there is no such group; {closest(group, groups)}allowed: {', '.join(groups)}.")
    return found


def _names(group: str, loader: ConfigLoaderImpl | None = None) -> list[str]:
    from hydra.core.object_type import ObjectType

    return list((loader or _loader()).get_group_options(group, ObjectType.CONFIG))


def node(group: str, name: str, loader: ConfigLoaderImpl | None = None) -> Node:
    """The configuration of one choice, as plain containers.

    What follows from other parts of a configuration, such as the shape of the data, is left out.

    Args:
        group: A folder of `conf/`.
        name: Of the choice.
        loader: Reads the folders; None for `folder` and those of allowed packages.

    Raises:
        BadInput: If there is no such choice, or it sets options of other groups alone.
    """
    allowed = names(group, loader)
    if name not in allowed:
        raise BadInput(f"{group}={name}: unknown; {closest(name, allowed)}allowed: {', '.join(allowed)}.")
    return copy.deepcopy(_node(loader or _loader(), group, name))


def build(group: str, name: str, /, **options: Any) -> Any:
    """The object of one choice.

    Args:
        group: A folder of `conf/`, such as "objective".
        name: Of the choice.
        **options: Instead of those of the choice: of its class, plain values or objects. For a part that is a choice
            itself its name serves too: `build("sampler", "heun", spacing="karras")`.

    Raises:
        ValueError: If a name or an option is unknown, out of range or not given; the sentence of the command line.
    """
    tree = node(group, name)
    path = group.replace("/", ".")
    for key, value in options.items():
        if isinstance(value, str) and isinstance(tree.get(key, {}), Mapping) and _names(key):
            value = node(key, value)
        elif isinstance(value, tuple):
            value = list(value)
        own = tree.get(key)
        merged = isinstance(own, dict) and isinstance(value, dict) and "_target_" not in value
        tree[key] = {**own, **value} if merged and own is not None else value
    for place, part in targets(tree, path):
        if missing := next((key for key, value in part.items() if isinstance(value, str) and value == "???"), None):
            raise not_given(f"{place}.{missing}")
    check({path: tree})
    return construct(tree, path)


def sampler(name: str, /, **options: Any) -> Sampler:
    """A sampler of `conf/sampler`: `sampler("dpmpp_2m", steps=20, spacing="karras")`; see `build`."""
    out: Sampler = build("sampler", name, **options)
    return out


def guider(name: str, /, **options: Any) -> Guider:
    """A rule of guidance of `conf/guider`: `guider("apg", eta=0.5)`; see `build`."""
    out: Guider = build("guider", name, **options)
    return out


def schedule(name: str, /, **options: Any) -> Schedule:
    """A noise schedule of `conf/schedule`: `schedule("vp_linear")`; see `build`."""
    out: Schedule = build("schedule", name, **options)
    return out


def spacing(name: str, /, **options: Any) -> Spacing:
    """A grid of levels of `conf/spacing`: `spacing("karras", rho=5.0)`; see `build`."""
    out: Spacing = build("spacing", name, **options)
    return out


def network(name: str, /, **options: Any) -> Any:
    """An untrained network of `conf/network`: `network("ddpm_tiny", shape=[1, 8, 8])`; see `build`."""
    return build("network", name, **options)


def objective(name: str, /, **options: Any) -> Objective:
    """A loss of `conf/objective`: `objective("min_snr")`; see `build`."""
    out: Objective = build("objective", name, **options)
    return out


def _loader() -> ConfigLoaderImpl:
    return _loader_of(tuple(packages.folders().items()))


@functools.cache
def _loader_of(own: tuple[tuple[str, Path], ...]) -> ConfigLoaderImpl:
    """Reads from `folder` and the folders of allowed packages, which are `own`."""
    from denoiselab.nodes import search_path

    return search_path.Loader(search_path.of(folder()))


@functools.lru_cache(maxsize=512)
def _node(loader: ConfigLoaderImpl, group: str, name: str) -> Node:
    """A choice, read once for each loader: a start asks for the same metrics and samplers several times."""
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    repository = CachingConfigRepository(loader.repository)
    try:
        # As `hydra.compose`, which takes five times as long, as it composes Hydra's own node too.
        defaults = create_defaults_list(repository, f"{group}/{name}", [], prepend_hydra=False, skip_missing=False)
        config = loader._compose_config_from_defaults_list(defaults.defaults, repository)
        path = group.replace("/", ".")
        if OmegaConf.select(config, path) is None:
            raise BadInput(f"{group}={name}: it sets options of other parts, so it cannot be built by itself.")
        whole = OmegaConf.merge(_constants(), config)
        OmegaConf.set_struct(whole, False)
        part: DictConfig = OmegaConf.select(whole, path)
        _drop_what_follows(part)
        content = OmegaConf.to_container(part, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(f"{group}={name}: {' '.join(str(error).split())}.") from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


@functools.cache
def _constants() -> DictConfig:
    """The numbers that several parts of a configuration share, such as `sigma_data`."""
    from omegaconf import OmegaConf

    shared = OmegaConf.to_container(OmegaConf.load(folder() / "train.yaml"), resolve=False)
    assert isinstance(shared, dict)
    return OmegaConf.create({key: value for key, value in shared.items() if isinstance(value, int | float)})


def _drop_what_follows(part: DictConfig) -> None:
    """Remove options whose interpolations point to what is not there."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key in list(part):
        if OmegaConf.is_missing(part, key):
            continue
        try:
            value = part[key]
        except OmegaConfBaseException:
            del part[key]
            continue
        if isinstance(value, DictConfig):
            _drop_what_follows(value)
