"""Values of a configuration that follow from files that it names: interpolations such as `${latent_shape:...}`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab.app.config import nodes
from denoiselab.errors import BadInput, not_given
from denoiselab.nodes.instantiate import check, construct, resolve

_T = TypeVar("_T")


def register() -> None:
    """Register the resolvers with OmegaConf."""
    for name, resolver in _RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def reason(error: OmegaConfBaseException, config: DictConfig) -> str:
    """The cause of an error of an interpolation in a configuration, in one sentence."""
    text = " ".join(str(error).split())
    if cause := re.search(r"BadInput raised while resolving interpolation: (.*?) full_key:", text):
        return cause[1]
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", text):
        return str(_absent(missing[1], config))
    if absent := re.search(r"Interpolation key '([\w.]+)' not found", text):
        return (
            f"{absent[1]}: cannot be deleted, as other options are computed from it; give it a value: {absent[1]}=..."
        )
    return text


def _absent(option: str, config: DictConfig) -> BadInput:
    """The error for an option without a value, with what the signature of its node says of it."""
    place, _, name = option.rpartition(".")
    signature = nodes.signature_of(OmegaConf.select(config, place)) if place else None
    parameter = signature.parameters.get(name) if signature else None
    return not_given(option, parameter.doc if parameter else "")


def _latent_shape(path: str, shape: Sequence[int]) -> list[int]:
    from denoiselab.frozen.autoencoders import latent_shape  # takes seconds

    return _resolved("codec", lambda: latent_shape(path, list(shape)))


def _token_features(*paths: str) -> int:
    """Features of a token of one encoder, or of several that are joined by features."""
    from denoiselab.frozen.folders import token_features

    return sum(_resolved("conditioner.encoder", functools.partial(token_features, path)) for path in paths)


def _num_classes(*, _root_: DictConfig) -> int | None:
    """The number of classes of the data: as given, or counted."""
    given: int | None = _root_.data.get("num_classes")
    if given is not None:
        return given
    node = OmegaConf.to_container(_root_.data, resolve=True)
    assert isinstance(node, dict)
    if absent := next((key for key, value in node.items() if value == "???"), None):
        raise _absent(f"data.{absent!s}", _root_)
    return _counted(json.dumps(node))


@functools.cache
def _counted(node: str) -> int | None:
    """The number of classes in the files of a data set; None of one without files."""
    from denoiselab.data.sources.image_source import ImageSource  # takes seconds

    tree = {"data": json.loads(node)}
    kind = resolve(tree["data"].get("_target_"), "data")
    if not (isinstance(kind, type) and issubclass(kind, ImageSource)):
        return None
    check(tree)
    source: ImageSource = construct(tree["data"], "data")
    try:
        return source.counted_classes()
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from None


def _folder_sha256(path: str, option: str) -> str:
    from denoiselab.frozen.folders import folder_of, sha256_of

    return _resolved(option, lambda: sha256_of(folder_of(path)))


def _resolved(option: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except (ValueError, OSError) as error:
        raise BadInput(f"{option}.{error}") from None


def _timm_config(path: str) -> dict[str, Any]:
    from denoiselab.frozen.representations import timm_config

    return _resolved("objective.regulariser", lambda: timm_config(path))


_RESOLVERS: dict[str, Callable[..., Any]] = {
    "latent_shape": _latent_shape,
    "num_classes": _num_classes,
    "token_features": _token_features,
    "folder_sha256": _folder_sha256,
    "timm_config": _timm_config,
    "inpainting_channels": lambda shape: 1 + shape[0],
}
