"""Nodes with a `_target_` in Hydra's configurations: they take any option, and state those that are not given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from denoiselab.nodes import options, signatures
from denoiselab.nodes.signatures import Signature


def open_(config: DictConfig) -> None:
    """Let overrides add options to the nodes of a composed configuration."""
    for node in _nodes(config):
        OmegaConf.set_struct(node, False)


def complete(config: DictConfig) -> None:
    """Add to each node the defaults of its signature that it does not state."""
    for node in _nodes(config):
        content = OmegaConf.to_container(node, resolve=False)
        assert isinstance(content, dict)
        missing = options.defaults({str(key): value for key, value in content.items()})
        if missing:
            with open_dict(node):
                node.update(missing)


def shorten(config: DictConfig) -> None:
    """Take away the `data.size` of a file of `debug` where the data take none, as a data set of a user's may."""
    known = takes(config.get("data"))
    if OmegaConf.select(config, "hydra.runtime.choices.debug") and known is not None and "size" not in known:
        config.data.pop("size", None)


def signature_of(node: Any) -> Signature | None:
    """The signature of a node's `_target_`, if it is a node and its signature can be read from source files."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or "_target_" not in node:
        return None
    target = node._get_node("_target_")
    return signatures.read(str(target)) if target is not None else None


def takes(node: Any) -> list[str] | None:
    """The keys that a node may have; None where it is none, or where its signature does not say."""
    signature = signature_of(node)
    if signature is None or signature.more:
        return None
    aside = options.program_sets(signature.target)
    return [*options.SPECIAL, *(name for name in signature.parameters if name not in aside)]


def taken(node: Any, path: str) -> str:
    """What a node takes, in a sentence."""
    signature = signature_of(node)
    assert signature is not None
    return options.taken(path, signature)


def _nodes(config: Any) -> Iterator[DictConfig]:
    """The nodes with a `_target_`, but for Hydra's own."""
    if not OmegaConf.is_config(config) or config._is_none() or config._is_missing() or config._is_interpolation():
        return
    if isinstance(config, ListConfig):
        for index in range(len(config)):
            yield from _nodes(config._get_node(index))
        return
    if "_target_" in config:
        yield config
    for key in config:
        if not (key == "hydra" and config._get_parent() is None):
            yield from _nodes(config._get_node(key))
