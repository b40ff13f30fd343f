"""What is said of an unknown option: the closest spelling, its place, and what is allowed there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig

from denoiselab.app.config import nodes
from denoiselab.errors import BadInput
from denoiselab.nodes.options import SPECIAL

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
    "negative_prompt": "conditioner.negative_prompts",
    "guidance_rescale": "guider.rescale",
    "guidance_interval": "guider.interval",
}


def unknown(override: Override, parts: Sequence[str], depth: int, node: Any, known: Sequence[str]) -> BadInput:
    """The error for an option whose part at `depth` is not in `node`; `known` are the options there are."""
    key, where, takes = override.key_or_group, ".".join(parts[:depth]), nodes.takes(node)
    value = "" if override.is_delete() else f"={override.get_value_element_as_str()}"
    if takes is not None:
        names = [name for name in takes if name not in SPECIAL]
        near = _suggestion(parts, depth, names, known)
        return BadInput(f"{key}{value}: unknown option; {near}{nodes.taken(node, where)}")
    here = children(node)
    task = node.get("task") if isinstance(node, DictConfig) and not where else None
    own = [name for name in nodes.takes(task) or [] if name not in SPECIAL]
    near = _suggestion(parts, depth, [*here, *own], [*known, *own])
    allowed = ", ".join(sorted(here)) or "nothing"
    inside = f"in '{where}'" if where else "at the top"
    named = where in _NAMED and value and depth + 1 == len(parts)
    more = f" (+{key}={{_target_: ...}} adds one)" if named else ""
    more = f"; {nodes.taken(task, 'task').removesuffix('.')}" if own else more
    return BadInput(f"{key}{value}: unknown option; {near}allowed {inside}: {allowed}{more}.")


def _suggestion(parts: Sequence[str], depth: int, allowed: Sequence[str], known: Sequence[str]) -> str:
    """`did you mean 'x'? `, or nothing: what other programs call it, the closest spelling, or its place."""
    leaf, leaves = parts[-1], {name.rpartition(".")[2]: name for name in reversed(known)}
    if _OTHER_NAMES.get(leaf) in known and leaf not in leaves:
        near = difflib.get_close_matches(leaf, allowed, n=1, cutoff=0.8) if depth == 0 else []  # gpu of plans
        return _meant([*dict.fromkeys([*near, _OTHER_NAMES[leaf]])])
    if near := difflib.get_close_matches(parts[depth], allowed, n=1, cutoff=0.6):
        return _meant([".".join([*parts[:depth], near[0], *parts[depth + 1 :]])])
    places = [name for name in known if name.endswith(f".{'.'.join(parts)}")]
    if places:
        highest = min(place.count(".") for place in places)
        return _meant([place for place in places if place.count(".") == highest][:3])
    return _meant([leaves[near] for near in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)])


def _meant(keys: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, keys))}? " if keys else ""


def children(node: Any) -> list[str]:
    """The keys of a mapping, or the indices of a list; none of anything else."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        return [str(key) for key in node]
    if isinstance(node, ListConfig) and not node._is_none():
        return [str(index) for index in range(len(node))]
    return []


def dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a tree."""
    if isinstance(node, DictConfig):
        for key in children(node):
            yield f"{prefix}{key}"
            yield from dotted(node._get_node(key), f"{prefix}{key}.")
