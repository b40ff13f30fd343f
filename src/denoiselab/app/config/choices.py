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


def sampler_nodes(names: list[str], option: str = "evaluation.samplers") -> dict[str, Any]:
    """Label to configuration, for names of `conf/sampler`, each with a grid behind an @ if not its own.

    The grid is a name of `conf/spacing`, a JSON file as `task=fit_grid` writes it, or a file of `task=truncate`:
    `ddim@karras`, `ddim@path/to/it.json`, `ddim@path/to/it.pt` (whose label ends in the file's stem).
    `fitted@path/to/it.json` is the solver of a file as `task=fit_solver` writes it.
    """
    nodes: dict[str, Any] = {}
    for name in names:
        rule, at, grid = name.partition("@")
        label, node = rule, _choice("sampler", rule, option)
        if at:
            own = _FILES.get(Path(grid).suffix)
            if "path" in node:
                if Path(grid).suffix != ".json":
                    raise BadInput(f"{option}={names}: {rule} takes a file, as in {rule}@<file>.json, and no grid.")
                node = {**node, "path": grid}
            else:
                spacing = {"_target_": own, "path": grid} if own else _choice("spacing", grid, option)
                node = {**node, "spacing": spacing}
            label = f"{rule}@{Path(grid).stem if own else grid}"
        elif node.get("path") == "???":
            raise BadInput(f"{option}={names}: {rule} takes a file, as in {rule}@<file>.json.")
        if label in nodes:
            raise BadInput(f"{option}={names}: '{label}' is listed more than once.")
        nodes[label] = node
    options.check(nodes)
    return nodes


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
