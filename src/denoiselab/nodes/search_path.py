"""The folders in which Hydra finds configurations: this package's, those of allowed packages, those of the user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource

from denoiselab.errors import BadInput
from denoiselab.nodes import packages

_KEY = "hydra.searchpath"
_BUILT_IN = ("hydra", "main", "schema")


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configurations, which refuses one that two folders hold."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = _Repository(config_search_path)


class _Repository(ConfigRepository):
    """Hydra's own takes the first of several configurations of a name, and says nothing."""

    def _find_object_source(self, config_path: str, object_type: ObjectType | None) -> ConfigSource | None:
        found = super()._find_object_source(config_path, object_type)
        if found is None or object_type is not ObjectType.CONFIG:
            return found
        for other in self.sources:
            if other is not found and other.provider not in _BUILT_IN and other.is_config(config_path):
                group, _, name = config_path.removesuffix(".yaml").rpartition("/")
                raise BadInput(
                    f"{group or 'configuration'}={name}: is defined in {_shown(found)} and in {_shown(other)}; "
                    "rename one of them."
                )
        return found


def of(conf: Path, given: Mapping[str, Path] = MappingProxyType({})) -> ConfigSearchPath:
    """Where Hydra searches: in `conf`, in the folders of allowed packages, and in further ones.

    Args:
        conf: Folder of the primary configurations.
        given: Further folders, by the option that names them.
    """
    path = create_config_search_path(str(conf))
    places = [part.path for part in path.get_path()]
    for provider, folder in {**packages.folders(), **given}.items():
        if (place := f"file://{folder}") not in places:
            places.append(place)
            path.prepend(provider, place, anchor=SearchPathQuery(provider="schema"))
    return path


@contextmanager
def initialized(
    conf: Path, name: str, given: Mapping[str, Path] = MappingProxyType({}), loader: type[Loader] = Loader
) -> Iterator[Hydra]:
    """Hydra, within the context, with all folders of configurations.

    Args:
        conf: As in `of`.
        name: Of the program.
        given: As in `of`.
        loader: Composes the configurations.
    """
    with hydra.initialize_config_dir(str(conf), job_name=name, version_base="1.3"):
        program = GlobalHydra.instance().hydra
        assert program is not None
        program.config_loader = loader(of(conf, given))
        yield program


def given(config_dir: str | None, overrides: Sequence[str]) -> dict[str, Path]:
    """The folders that the command line names by `--config-dir` or `hydra.searchpath`, by the option that does."""
    named = [] if config_dir is None else [("--config-dir", config_dir)]
    for text in filter(_sets, overrides):
        try:
            values = OverridesParser.create().parse_override(text).value()
        except HydraException:
            values = None
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise BadInput(
                f"{text}: must be a list of folders or packages; write {_KEY}=[path/to/conf] or "
                f"{_KEY}=[pkg://mylab.conf]."
            )
        named += [(_KEY, str(value)) for value in values]
    return {f"{option}={place}": _folder(option, place) for option, place in named}


def others(overrides: Sequence[str]) -> list[str]:
    """The overrides that are not of the search path."""
    return [text for text in overrides if not _sets(text)]


def _sets(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0] == _KEY


def _folder(option: str, place: str) -> Path:
    scheme, found, rest = place.rpartition("://")
    if scheme == "pkg":
        name = rest.replace("/", ".")
        package = name.partition(".")[0]
        if not f"{name}.".startswith(packages.allowed()):
            raise BadInput(
                f"{option}={place}: {package} is not an allowed package; if you trust its code, set "
                f"{packages.ALLOW_VARIABLE}={package} in the environment."
            )
        folder = packages.folder_of(name)
    elif found and scheme != "file":
        raise BadInput(f"{option}={place}: must be a folder, or a package as pkg://mylab.conf.")
    else:
        folder = Path(os.path.abspath(Path(rest).expanduser()))  # noqa: PTH100  # links stay as they are written
    if folder is None or not folder.is_dir():
        raise BadInput(f"{option}={place}: there is no such folder.")
    return folder


def _shown(source: ConfigSource) -> str:
    return source.path if source.scheme() == "file" else f"{source.scheme()}://{source.path}"
