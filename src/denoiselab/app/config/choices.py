"""Lists of names in a configuration, such as evaluation.samplers=[ddim,heun]: the nodes that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.app.config import overrides
from denoiselab.app.config.settings import Evaluation
from denoiselab.errors import BadInput
from denoiselab.nodes import options

# The grids of files.
_FILES = {
    ".json": "denoiselab.samplers.spacing.listed.FromFile",
    ".pt": "denoiselab.samplers.spacing.truncated.Truncated",
}


def sampler_nodes(entries: Sequence[str | Mapping[str, Any]], option: str = "evaluation.samplers") -> dict[str, Any]:
    """Label to configuration, for names of `conf/sampler`, each with a grid behind an @ if not its own.

    The grid is a name of `conf/spacing`, a JSON file as `task=fit_grid` writes it, or a file of `task=truncate`:
    `ddim@karras`, `ddim@path/to/it.json`, `ddim@path/to/it.pt` (whose label ends in the file's stem).
    `fitted@path/to/it.json` is the solver of a file as `task=fit_solver` writes it.

    An entry with options is `{name: ddim@karras, eta: 0.5}`; what it is called by is its `label`, else its name with
    these options. `curve` is none of them; see `curves_of`.
    """
    nodes: dict[str, Any] = {}
    for entry in entries:
        given = {"name": entry} if isinstance(entry, str) else dict(entry)
        name, own, _ = (given.pop(key, None) for key in ("name", "label", "curve"))
        if not isinstance(name, str) or not isinstance(own, str | None):
            raise BadInput(f"{option}={entry}: it needs a name of conf/sampler, such as {{name: ddim, eta: 0.5}}.")
        label, node = _named(name, option)
        label = own or " ".join([label, *(f"{key}={value}" for key, value in given.items())])
        if label in nodes:
            raise BadInput(f"{option}={[*entries]}: '{label}' is listed more than once.")
        nodes[label] = _merged(node, given)
    options.check(nodes)
    return nodes


def _named(name: str, option: str) -> tuple[str, dict[str, Any]]:
    """Label and configuration of a name with its grid."""
    rule, at, grid = name.partition("@")
    node = _choice("sampler", rule, option)
    if not at:
        if node.get("path") == "???":
            raise BadInput(f"{option}={name}: {rule} takes a file, as in {rule}@<file>.json.")
        return rule, node
    own = _FILES.get(Path(grid).suffix)
    if "path" in node:
        if Path(grid).suffix != ".json":
            raise BadInput(f"{option}={name}: {rule} takes a file, as in {rule}@<file>.json, and no grid.")
        node = {**node, "path": grid}
    else:
        node = {**node, "spacing": {"_target_": own, "path": grid} if own else _choice("spacing", grid, option)}
    return f"{rule}@{Path(grid).stem if own else grid}", node


def _merged(node: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A node with options in place of its own; those of a part of it, without a `_target_`, change this part."""
    out = dict(node)
    for key, value in given.items():
        own, part = out.get(key), isinstance(value, Mapping) and "_target_" not in value
        out[key] = _merged(own, value) if part and isinstance(own, Mapping) else value
    return out


def curves_of(entries: Sequence[str | Mapping[str, Any]]) -> dict[str, str]:
    """Label to the name of the published curve, for the entries that have one: `{name: ddim, curve: DDIM}`."""
    found = zip(sampler_nodes(entries), entries, strict=True)
    return {label: str(entry["curve"]) for label, entry in found if not isinstance(entry, str) and entry.get("curve")}


def guider_nodes(
    entries: Sequence[str | Mapping[str, Any]], option: str = "evaluation.guiders"
) -> list[dict[str, Any]]:
    """The configurations of names of `conf/guider`, or of names with options: `{name: apg, eta: 0.5}`.

    `scale` is none of them; see `own_scale`.
    """
    nodes: list[dict[str, Any]] = []
    for entry in entries:
        given = {"name": entry} if isinstance(entry, str) else dict(entry)
        own_scale(entry, option)
        given.pop("scale", None)
        name = given.pop("name", None)
        if not isinstance(name, str):
            raise BadInput(f"{option}={entry}: it needs a name of conf/guider, such as {{name: apg, eta: 0.5}}.")
        nodes.append({**_choice("guider", name, option), **given})
        options.check({f"{option}.{name}": nodes[-1]})
    return nodes


def own_scale(entry: str | Mapping[str, Any], option: str = "evaluation.guiders") -> float | None:
    """The scale of a guider that has its own, `{name: cfgpp, scale: 0.6}`; None for those that are asked for."""
    scale = None if isinstance(entry, str) else entry.get("scale")
    if scale is None or (type(scale) in (int, float) and math.isfinite(scale)):
        return None if scale is None else float(scale)
    raise BadInput(f"{option}={entry}: its scale must be a finite number.")


def metric_nodes(evaluation: Evaluation) -> dict[str, Any]:
    """Name to configuration, for names of `conf/metric`, with the options that are set beside them."""
    for name in evaluation.metrics:
        if evaluation.metrics.count(name) > 1:
            raise BadInput(f"evaluation.metrics={evaluation.metrics}: '{name}' is listed more than once.")
    nodes = {name: _choice("metric", name, "evaluation.metrics") for name in evaluation.metrics}
    for name, given in evaluation.metric_options.items():
        if name not in nodes:
            raise BadInput(
                f"evaluation.metric_options.{name}: it is not one of evaluation.metrics={evaluation.metrics}."
            )
        nodes[name] |= given
    options.check({"evaluation": {"metric_options": nodes}})
    return nodes


def _choice(group: str, name: str, option: str) -> dict[str, Any]:
    try:
        return overrides.choice(group, name)
    except BadInput as error:
        raise BadInput(f"{option}: {error}") from None
