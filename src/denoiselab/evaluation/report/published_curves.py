"""The published curves that a page holds, and the published values beside those of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from denoiselab.evaluation.records import Record, finished
from denoiselab.evaluation.verdicts.published import Own, Paper, Table, curves, differences, source, unknown


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


class Beside(NamedTuple):
    """Published values that a table has beside its own.

    Attributes:
        values: By sampler and network calls a sample.
        said: Where they are from, what differs from the own protocol, and what the source does not say.
    """

    values: Mapping[tuple[str, int], float]
    said: str


def beside(
    paper: Paper, named: Mapping[str, str], records: Sequence[Record], config: Mapping[str, Any]
) -> Beside | None:
    """The values of the paper's table that differs least from the own protocol; None where nothing compares.

    Args:
        paper: The paper.
        named: Own sampler to the name of its curve.
        records: Own cells.
        config: Of their run, plain containers.
    """
    done = [record for record in finished(records) if record["sampler"] in named]
    tables = [table for table in paper.tables if any(curve.name in named.values() for curve in table.curves)]
    if not done or not tables:
        return None
    own = Own(done[-1], config)
    table = min(tables, key=lambda one: (len(_other(one, own)), len(differences(one, own))))
    differs, unsaid = [*_other(table, own), *differences(table, own)], unknown(table.protocol)
    theirs = {curve.name: curve.by_calls() for curve in table.curves}
    said = [
        f"published: {source(paper, table)}",
        f"it differs in {'; '.join(differs)}" if differs else "no difference in protocol is known",
        *([f"it does not say: {', '.join(unsaid)}"] if unsaid else []),
    ]
    return Beside(
        {(label, calls): value for label, name in named.items() for calls, value in theirs.get(name, {}).items()},
        ". ".join(one[:1].upper() + one[1:] for one in said) + ".",
    )


def _other(table: Table, own: Own) -> list[str]:
    """What makes values of another kind: other data, another metric."""
    pairs = {"data": table.protocol.data, "metric": table.protocol.metric}
    return [f"{key}: {own.record[key]}, theirs {wanted}" for key, wanted in pairs.items() if own.record[key] != wanted]
