"""Objects of conf/ by name, as the programs build them; and all names of a group, so that suites find new files."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from omegaconf import DictConfig, OmegaConf

from denoiselab.app.config import nodes
from denoiselab.app.config.hydra_node import CheckedLoader
from denoiselab.nodes import search_path
from denoiselab.nodes.instantiate import check, construct

CONF = Path(__file__).resolve().parent.parent / "conf"


def names(group: str) -> list[str]:
    """The choices of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@contextmanager
def composing(program: str = "train") -> Iterator[CheckedLoader]:
    """Within it Hydra composes as the programs do."""
    with search_path.initialized(CONF, program, {}, CheckedLoader) as hydra:
        yield hydra.config_loader


def stated(name: str) -> DictConfig:
    """As `compose`, without Hydra's own node, which takes four fifths of its time, and the defaults of signatures."""
    with composing() as loader:
        files = CachingConfigRepository(loader.repository)
        found = create_defaults_list(files, name, [], prepend_hydra=False, skip_missing=False)
        return loader._compose_config_from_defaults_list(found.defaults, files)


def complete(group: str) -> list[str]:
    """Those choices of a group that no option is missing from."""
    return [name for name in names(group) if "???" not in (CONF / group / f"{name}.yaml").read_text()]


def build(group: str, name: str, *overrides: str) -> Any:
    """The object of a choice, for data of standard deviation 0.5 and batches of 128."""
    plain = copy.deepcopy(_plain(CONF, group, name, overrides))
    check({group: plain})
    return construct(plain, group)


@functools.cache
def _plain(conf: Path, group: str, name: str, overrides: tuple[str, ...]) -> Any:
    """Composing takes most of the time of `build`, and many modules build the same choices."""
    context = {"sigma_data": 0.5, "batch_size": 128}
    if overrides:
        with composing():
            config = compose(
                f"{group}/{name}", [re.sub(r"^\+?", rf"\g<0>{group}.", override) for override in overrides]
            )
    else:
        config = stated(f"{group}/{name}")
        nodes.complete(config)
    node = config[group]
    plain: Any = OmegaConf.to_container(OmegaConf.create({**context, group: node}), resolve=True)
    return plain[group]
