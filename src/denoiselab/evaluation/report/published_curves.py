"""The published curves that a page holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from denoiselab.evaluation.records import Record
from denoiselab.evaluation.verdicts.published import Own, Paper, curves


def published_curves(
    papers: Sequence[Paper], cells: Sequence[Record], configs: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Curves of the data and metrics of the page's cells, each with the `groups` of cells that it is compared with.

    What differs is that from the last cell of a group.

    Args:
        papers: The registry.
        cells: Of the page, in its order, with their `group`, `run`, and `record`.
        configs: `config.yaml` of the runs, as text.
    """
    newest = {cell["group"]: cell for cell in cells if not cell["error"]}
    return [
        {**curve, "metric": metric, "groups": [group]}
        for group, cell in newest.items()
        for metric in cell["scores"] or ()
        for curve in curves(papers, Own(cell["record"], _parsed(configs.get(cell["run"], ""))), metric)
    ]


def _parsed(text: str) -> dict[str, Any]:
    """A configuration from its text; empty if it is damaged."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return config if isinstance(config, dict) else {}
