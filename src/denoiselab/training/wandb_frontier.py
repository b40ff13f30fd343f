"""The frontier on W&B: a long table with a chart, scalars, pictures and artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiselab.evaluation.records import Record, beside, finished, lower_is_better
from denoiselab.evaluation.report import tables, verdicts
from denoiselab.training import wandb_verdicts
from denoiselab.training.checkpoint_files import BEST, CHECKPOINTS, LAST
from denoiselab.training.frontier_entries import best, by_nfe, pictures_of, scalar

if TYPE_CHECKING:
    from denoiselab.training.loggers import WandBRun  # imports Lightning

# W&B keeps the chart's table as <CHART>_table, which charts of all selected runs read, so it never changes. It is not
# in frontier/, whose summary is the least value, which a table has not.
CHART = "frontier_chart"
FIELDS = {"x": "nfe", "y": "score", "stroke": "series"}
# A chart that W&B has without a preset.
LINE = "wandb/line/v0"

_COLUMNS = (
    "series", "sampler", "nfe", "steps", "network_evaluations", "score", "standard_error", "metric", "n", "weights",
    "guidance", "seed", "images_seen", "seconds_per_1k_images", "devices", "device_name", "peak_memory_mb", "pareto",
    "extractor", "extractor_sha256", "reference_sha256", "weights_sha256", "code_sha256",
    "other_code", "run", "error", "cell",
)  # fmt: skip


def send_frontier(logger: WandBRun, records: Sequence[Record], directory: Path) -> None:
    """Log a frontier, in the logger's thread.

    Args:
        logger: An open run.
        records: All cells of the frontier, with failed ones.
        directory: Of the run that was scored.
    """
    series = tables.by_series(records)
    rows = [[name if c == "series" else record.get(c) for c in _COLUMNS] for name, s in series.items() for record in s]
    pictures = pictures_of(series, directory)
    said = wandb_verdicts.rows(directory)

    def send(run: Any) -> None:
        import wandb  # slow to import

        # An exact name overrides frontier/*, whose summary is the least value.
        for name, group in series.items():
            for key in sorted({key for record in finished(group) for key in _rising(name, record)}):
                run.define_metric(key, step_metric="frontier/nfe", summary="max")
        table = wandb.Table([*_COLUMNS], rows)
        run.log({CHART: wandb.plot_table(logger.chart or LINE, table, FIELDS, {"title": "Score against NFE"})})
        if said:
            preset = wandb_verdicts.preset_of(logger.chart) if logger.chart else wandb_verdicts.BAR
            table = wandb.Table([*wandb_verdicts.COLUMNS], said)
            title = {"title": "Difference from the best at each NFE"}
            chart = wandb.plot_table(preset, table, wandb_verdicts.FIELDS, title)
            run.log({wandb_verdicts.VERDICTS: chart})
        for step in by_nfe(series):
            run.log(step)
        run.log({key: wandb.Image(str(path)) for key, path in pictures.items()})
        run.summary.update({**tables.named(records), **best(records)})
        for artifact in _artifacts(wandb, run.id, records, directory, logger.artifacts):
            run.log_artifact(artifact)

    logger.do(send)


def _rising(series: str, record: Record) -> list[str]:
    """The keys of a record's scores of which more is better."""
    further = [{**record, "metric": name} for name, score in beside(record).items() if not score["lower_is_better"]]
    return [scalar(series, one) for one in [*([] if lower_is_better(record) else [record]), *further]]


def _artifacts(wandb: Any, run_id: str, records: Sequence[Record], directory: Path, kinds: Sequence[str]) -> list[Any]:
    """The artifacts of the chosen kinds; W&B uploads equal contents once."""
    out = []
    asked = records[0]  # later ones may come from an edited file, and name any file as their reference
    files = {
        "checkpoint": [directory / CHECKPOINTS / name for name in (LAST, BEST)],
        "frontier": [
            *(directory / f"frontier.{kind}" for kind in ("csv", "json", "html", "png")),
            directory / verdicts.VERDICTS,
        ],
        "reference": [Path(path) for path in (asked.get("reference_file"),) if path],
    }
    names = {
        "checkpoint": f"checkpoint-{run_id}",
        "frontier": f"frontier-{run_id}",
        "reference": f"reference-{asked['reference_sha256'][:16]}",
    }
    for kind in kinds:
        found = [path for path in files[kind] if path.is_file()]
        if not found:
            continue
        facts = {
            key: asked.get(key) for key in ("data", "metric", "images_seen", "extractor_sha256", "reference_sha256")
        }
        artifact = wandb.Artifact(names[kind], type=kind, metadata=facts)
        for path in found:
            artifact.add_file(str(path))
        out.append(artifact)
    return out


def chart_spec() -> dict[str, Any]:
    """The Vega-Lite specification of the chart that overlays the frontiers of all selected runs."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "description": "Score against network calls, a line for each run and series, with standard errors.",
        "data": {"name": "wandb"},
        "transform": [
            {"filter": "isValid(datum['${field:y}'])"},
            {"calculate": "datum.name + ' ' + datum['${field:stroke}']", "as": "line"},
            {"calculate": "datum['${field:y}'] - (datum['standard_error'] || 0)", "as": "low"},
            {"calculate": "datum['${field:y}'] + (datum['standard_error'] || 0)", "as": "high"},
        ],
        "encoding": {
            "x": {"field": "${field:x}", "type": "quantitative", "scale": {"type": "log"}, "title": "NFE"},
            "color": {"field": "line", "type": "nominal", "title": None},
        },
        "layer": [
            {
                "mark": {"type": "line", "point": True, "tooltip": {"content": "data"}},
                "encoding": {
                    "y": {
                        "field": "${field:y}",
                        "type": "quantitative",
                        "scale": {"type": "log", "zero": False},
                        "title": "score",
                    }
                },
            },
            {
                "mark": {"type": "rule"},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
        ],
    }
