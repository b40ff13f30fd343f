"""Published scores with their protocol, one YAML file a paper, and what differs between it and that of own cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from denoiselab.evaluation.records import guidance_text

_Text = Annotated[str, Field(min_length=1)]
_Calls = Annotated[int, Field(gt=0)]
_Value = Annotated[float, Field(allow_inf_nan=False)]
_Seen = Literal["paper", "repository", "later paper", "summary"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is

# Fields of a protocol that an own cell states too, and what they are called.
_COMPARED = {"n": "samples", "reference": "reference", "extractor": "extractor", "guidance": "guidance"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Protocol(_Strict):
    """How a value was measured; a field that is None was not seen in the source.

    Args:
        data: Name of the data set, as in `conf/data`.
        metric: Name of the metric, as in records.
        extractor: Of its features, as in records.
        n: Number of samples.
        reference: Part of the data that the samples are compared with: "train" or "held_out".
        resize: How samples and data are brought to the extractor's size.
        labels: Whether the model is conditioned on classes.
        guidance: Scale of classifier-free guidance; 1 without.
        classifier_scale: Of guidance by a classifier; None without.
        weights: Whether the weights are averaged: "ema" or "raw".
        ema_search: How the average's length was chosen.
    """

    data: _Text
    metric: _Text = "fid"
    extractor: str = "inception"
    n: _Calls | None = None
    reference: Literal["train", "held_out"] | None = None
    resize: str | None = None
    labels: bool = False
    guidance: _Value = 1.0
    classifier_scale: _Value | None = None
    weights: Literal["ema", "raw"] | None = None
    ema_search: str | None = None


class Model(_Strict):
    """The network of a table.

    Args:
        name: As the paper calls it.
        parts: Name of the class of a part of the configuration: `network`, `schedule`, `parameterization`.
        images_seen: In training; None if it was not seen in the source.
    """

    name: _Text
    parts: dict[Literal["network", "schedule", "parameterization", "codec"], _Text] = Field(min_length=1)
    images_seen: _Calls | None = None


class Curve(_Strict):
    """The values of one sampler.

    Args:
        name: As the paper calls it.
        values: By the paper's own count.
        more_calls: Network calls beyond that count.
        calls_per_count: Network calls of one of it.
    """

    name: _Text
    values: dict[_Calls, _Value] = Field(min_length=1)
    more_calls: int = Field(default=0, ge=0)
    calls_per_count: int = Field(default=1, ge=1)

    def by_calls(self) -> dict[int, float]:
        """The values by network calls a sample, as own cells count them."""
        return {self.calls_per_count * count + self.more_calls: value for count, value in self.values.items()}


class Table(_Strict):
    """A table of a paper.

    Args:
        table: Where it is in the paper.
        seen: Where the values were read: in the paper's text, its repository, a later paper, or a summary.
        counts: What the paper counts: steps, calls or evaluations.
        model: The network.
        protocol: How the values were measured.
        curves: A sampler each.
        note: What else a reader must take into account.
    """

    table: _Text
    seen: _Seen
    counts: Literal["steps", "calls", "evaluations"]
    model: Model
    protocol: Protocol
    curves: list[Curve] = Field(min_length=1)
    note: str = ""


class Recipe(_Strict):
    """What a paper says of a model that a file of `conf/experiment` trains.

    Args:
        experiment: The file's name.
        value: The published value and how it was measured, as text; empty if there is none.
        seen: Where the value was read; "memory" if nowhere.
        parameters: Of the network, in the digits of the source: "35.7 M", or "0.12 G" of 120 M in two digits; None if
            they were not seen.
        counted: Where the parameters were read, if not where the value was.
    """

    experiment: _Text
    value: str = ""
    seen: _Seen | Literal["memory"] = "paper"
    parameters: Annotated[str, Field(pattern=r"^\d+(\.\d+)? [kMG]$")] | None = None
    counted: _Seen | Literal["memory"] | None = None

    @property
    def number(self) -> tuple[float, float]:
        """The number of parameters, and half a unit of its last digit; of a recipe that has them."""
        digits, unit = (self.parameters or "").split()
        scale = {"k": 1e3, "M": 1e6, "G": 1e9}[unit]
        return float(digits) * scale, 0.5 * scale / 10 ** len(digits.partition(".")[2])


class Paper(_Strict):
    """A file of the registry.

    Args:
        title: Of the paper.
        source: Its arXiv number, or the address of a repository.
        tables: With values.
        recipes: That train its models.
    """

    title: _Text
    source: _Text
    tables: list[Table] = Field(default=[], min_length=1)
    recipes: list[Recipe] = Field(default=[], min_length=1)


class Own(NamedTuple):
    """What is compared with a published protocol.

    Attributes:
        record: Of a cell.
        config: Of its run, plain containers; empty if it is not known.
    """

    record: Mapping[str, Any]
    config: Mapping[str, Any]


def read(folder: Path) -> list[Paper]:
    """The papers of a folder's YAML files, by name of the file.

    Raises:
        ValueError: If a file does not follow the schema; the message names file and field.
    """
    return [read_paper(path) for path in sorted(folder.glob("*.yaml"))]


def read_paper(path: Path) -> Paper:
    """The paper of a YAML file.

    Raises:
        ValueError: As `read`.
    """
    try:
        return Paper.model_validate(yaml.load(path.read_text(encoding="utf-8"), _Loader))  # noqa: S506, as it is safe
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as invalid:
        detail = invalid.errors()[0]
        place = ".".join(map(str, detail["loc"])) or "the file"
        raise ValueError(f"{path}: {place}: {detail['msg']}; found {detail['input']!r}.") from None


def curves(papers: Sequence[Paper], own: Own, metric: str) -> Iterator[dict[str, Any]]:
    """Published curves of the data and the metric of an own cell: `name`, `source`, `points`, `differs`, `unknown`.

    `points` are (network calls, value), `differs` says what differs from the own protocol and model, and `unknown` what
    the source does not say. Papers of other data or metrics are left out.
    """
    for paper in papers:
        for table in paper.tables:
            if table.protocol.data != own.record["data"] or table.protocol.metric != metric:
                continue
            differs, unsaid = differences(table, own), unknown(table.protocol)
            for curve in table.curves:
                yield {
                    "name": f"{curve.name}, {table.model.name}",
                    "source": source(paper, table),
                    "points": sorted(curve.by_calls().items()),
                    "differs": differs,
                    "unknown": unsaid,
                }


def source(paper: Paper, table: Table) -> str:
    """Where the values of a table are from, and its note."""
    seen = "" if table.seen == "paper" else f", read in: {table.seen}"
    note = f"; {table.note}" if table.note else ""
    return f"{paper.title} ({paper.source}), {table.table}{seen}{note}"


def differences(table: Table, own: Own) -> list[str]:
    """What differs between a table's protocol and model and an own cell's: `samples: 512, theirs 50000`."""
    record, theirs = own.record, table.protocol
    mine = {
        "n": record["n"],
        "reference": record["split"],
        "extractor": record["extractor"],
        "guidance": 1.0 if record["guidance"] is None else record["guidance"],
    }
    out = [
        f"{label}: {mine[key]}, theirs {wanted}"
        for key, label in _COMPARED.items()
        if (wanted := getattr(theirs, key)) is not None and mine[key] != wanted
    ]
    if record.get("classifier_scale") != theirs.classifier_scale:
        scales = (record.get("classifier_scale") or "none", theirs.classifier_scale or "none")
        out.append("classifier's scale: {}, theirs {}".format(*scales))
    if record.get("guider"):
        out.append(f"guider: {guidance_text(record)}, theirs plain guidance")
    averaged = "raw" if record["weights"] == "raw" else "ema"
    if theirs.weights is not None and averaged != theirs.weights:
        out.append(f"weights: {record['weights']}, theirs {theirs.weights}")
    return out + _model_differences(table, own)


def _model_differences(table: Table, own: Own) -> list[str]:
    if not own.config:
        return [f"model: not known, theirs {table.model.name}"]
    out = []
    labels = _class_of(own.config, "conditioner") != "Unconditional"
    if labels != table.protocol.labels:
        out.append("labels: " + ("conditional, theirs not" if labels else "unconditional, theirs conditional"))
    for part, wanted in table.model.parts.items():
        found = _class_of(own.config, part)
        if found != wanted:
            out.append(f"{part}: {found or 'none'}, theirs {wanted} ({table.model.name})")
    seen, wanted_images = own.record.get("images_seen") or 0, table.model.images_seen
    # An imported model has seen none here; that its weights are the paper's is for the user to say.
    if seen and wanted_images is not None and not 0.9 <= seen / wanted_images <= 1.1:
        out.append(f"training: {seen:,} images seen, theirs {wanted_images:,}")
    return out


def _class_of(config: Mapping[str, Any], part: str) -> str:
    node = config.get(part)
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def unknown(protocol: Protocol) -> list[str]:
    """Fields that were not seen in the source."""
    names = {**_COMPARED, "resize": "resizing", "weights": "weights", "ema_search": "search of the average"}
    return [label for name, label in names.items() if getattr(protocol, name) is None]
