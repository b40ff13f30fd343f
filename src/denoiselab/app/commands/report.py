"""Frontiers that were scored before, of many runs: on one page, and on W&B."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoiselab.app.config.settings import Config, ReportSettings, parse
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.names import distinct
from denoiselab.app.runs.panel import PANELS, alone, panels, table
from denoiselab.app.sweeps.records import Sweep
from denoiselab.app.sweeps.summary import summarise
from denoiselab.choices import folder
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation.report.page import page_run, write_page
from denoiselab.evaluation.report.spent import spent, training_of
from denoiselab.evaluation.store import Store, mark_code, write_csv, write_json
from denoiselab.evaluation.verdicts.frontiers import LEVEL, mark_pareto
from denoiselab.evaluation.verdicts.published import Paper, read
from denoiselab.files import write_json as write_object
from denoiselab.training import wandb_verdicts
from denoiselab.training.wandb_frontier import CHART, FIELDS, chart_spec

# Not the names that a run's own have: a pattern over runs must not find them.
_JOINT = "frontiers.html"


def check(config: Config, *, sweeping: bool = False) -> ReportSettings:
    """Check all options."""
    settings = parse(ReportSettings, config)
    if settings.sweep_dir is not None and (settings.runs or settings.to != "page"):
        raise BadInput(f"sweep_dir={settings.sweep_dir}: goes without runs and with to=page alone.")
    if settings.to == "page" and not settings.runs and settings.sweep_dir is None:
        raise BadInput(
            "runs=[]: name at least one run directory, runs=[logs/digits/<run id>], or sweep_dir=<directory>."
        )
    if settings.to != "page":
        from denoiselab.training.loggers import has_wandb_key  # imports Lightning

        if not has_wandb_key():
            raise BadInput(f"to={settings.to}: W&B has no key here; run `wandb login`, or set WANDB_API_KEY.")
    if settings.to == "wandb_report":
        _workspaces()
    return settings


def run(config: Config, directory: Path | None = None) -> None:
    """Do what is asked, and say where it is."""
    settings = check(config)
    if settings.sweep_dir is not None:
        sweep = Sweep.read(Path(settings.sweep_dir), "sweep_dir")
        summarise(sweep, settings.level, None if settings.out is None else Path(settings.out), track=False)
    elif settings.to == "page":
        homes = directories(settings.runs)
        try:
            write_joint(homes, settings.out, settings.level)
        except ValueError as error:
            raise BadInput(str(error)) from None
    else:
        _to_wandb(settings)


def _to_wandb(settings: ReportSettings) -> None:
    """Register the presets of the charts, or write a report."""
    import wandb  # slow to import

    entity = settings.entity or str(wandb.Api().default_entity)
    if settings.to == "wandb_chart":
        specs = {settings.chart: (settings.title, chart_spec())}
        specs[wandb_verdicts.preset_of(settings.chart)] = ("Difference from the best", wandb_verdicts.chart_spec())
        for name, (title, spec) in specs.items():
            preset = wandb.Api().create_custom_chart(
                entity=entity, name=name, display_name=title, spec_type="vega2", access=settings.access, spec=spec
            )
            console().print(f"registered {preset}")
        console().print(f"runs use both with logger.wandb.chart={entity}/{settings.chart}")
    else:
        made = wandb_report(entity, settings.project, f"{entity}/{settings.chart}", settings.title)
        made.save()
        console().print(f"report: {made.url}")


def directories(asked: Sequence[str]) -> list[Path]:
    """The run directories that were asked for, patterns resolved, each once."""
    found: dict[Path, None] = {}
    for one in asked:
        for name in matches(one, "runs"):
            if (Path(name) / "frontier.json").is_file():
                found[Path(name)] = None
            elif name == one:
                raise _no_frontier(one)
    if not found:
        raise _no_frontier(*asked)
    return [*found]


def _no_frontier(*asked: str) -> BadInput:
    below = [one for one in asked if glob.glob(f"{one}/*/frontier.json")]  # noqa: PTH207  # `one` may be a pattern
    what = f"write {override('runs', [f'{one}/*' for one in below])}" if below else "name directories of scored runs"
    there = "no frontier.json there, but in folders below" if below else "no frontier.json there"
    return BadInput(f"runs={asked[0] if len(asked) == 1 else [*asked]}: {there}; {what}.")


def matches(pattern: str, option: str) -> list[str]:
    """The paths that fit a pattern, in order; of an existing path, that path alone."""
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    fits = sorted(glob.glob(pattern))  # noqa: PTH207  # Path.glob takes no absolute pattern
    if not fits:
        raise BadInput(f"{option}={pattern}: nothing fits this pattern.")
    return fits


def write_joint(homes: Sequence[Path], out: str | None, level: float = LEVEL) -> Path:
    """Write page, table and records of several runs into one folder, and return the page.

    Args:
        homes: Directories with frontiers.
        out: The folder; None for one beside the runs, named by them.
        level: Probability of any wrong verdict; cells that were drawn until decided have their own.
    """
    parent = Path(os.path.commonpath([home.absolute().parent for home in homes]))
    digest = hashlib.sha256("\n".join(str(home.absolute()) for home in homes).encode()).hexdigest()[:8]
    page = (parent / f"frontier-{digest}" if out is None else Path(out)) / _JOINT
    named = dict(zip(distinct(homes), homes, strict=True))
    found = panels(named, level)
    runs = [page_run(name, home) for name, home in named.items()]
    count = write_page(page, runs, papers=papers(), panels=found, level=level)
    stores = {name: Store(home) for name, home in named.items()}
    trained = {name: training_of(home) for name, home in named.items()}
    records = [
        {**record, "run": name, **spent(trained[name], record.get("images_seen"))}
        for name, store in stores.items()
        for record in store.read().values()
    ]
    mark_code(records)
    mark_pareto(records, lambda record: stores[record["run"]].influences(record), level=level)
    write_json(page.with_suffix(".json"), records)
    write_csv(page.with_suffix(".csv"), records)
    write_object(page.with_name(PANELS), {"panels": found})
    for text in filter(None, (table(found), *alone(named, found))):
        console().print(text)
    console().print(f"{count} cells of {len(homes)} run(s): {page}")
    return page


def papers() -> list[Paper]:
    """The registry of published values.

    Raises:
        BadInput: If a file of it does not follow the schema.
    """
    try:
        return read(folder() / "published")
    except ValueError as error:
        raise BadInput(str(error)) from None


def wandb_report(entity: str, project: str, preset: str, title: str) -> Any:
    """A W&B report of a project: the frontiers of all selected runs, the training, and the samples; not yet saved."""
    reports = _workspaces()
    chart = reports.CustomChart(
        query={"summaryTable": {"tableKey": f"{CHART}_table"}},
        chart_name=preset,
        chart_fields=FIELDS,
        chart_strings={"title": title},
    )
    differences = reports.CustomChart(
        query={"summaryTable": {"tableKey": f"{wandb_verdicts.VERDICTS}_table"}},
        chart_name=wandb_verdicts.preset_of(preset),
        chart_fields=wandb_verdicts.FIELDS,
        chart_strings={"title": "Difference from the best at each NFE"},
    )
    frontier = [
        chart,
        differences,
        reports.LinePlot(title=title, x="frontier/nfe", metric_regex="frontier/.*", log_x=True, log_y=True),
    ]
    training = [
        reports.LinePlot(title="Loss", x="images_seen", y=["train/loss"], log_y=True),
        reports.LinePlot(title="Scores in training", x="images_seen", metric_regex="score/.*", log_y=True),
        reports.MediaBrowser(title="Samples in training", media_keys=["preview/samples"]),
    ]

    def panels(listed: list[Any]) -> Any:
        return reports.PanelGrid(runsets=[reports.Runset(entity=entity, project=project)], panels=listed)

    blocks = [
        reports.H1("Which sampler, at how many network calls"),
        reports.P(
            "One NFE is one call of the network for a sample. Compare scores of equal n and metric alone. The "
            "intervals of differences from the best hold for all pairs of a run's cells at once; a tie is not told "
            "from the best."
        ),
        panels(frontier),
        reports.H1("Training"),
        panels(training),
        reports.H1("Configurations"),
        panels([reports.RunComparer(diff_only=True)]),
    ]
    return reports.Report(entity=entity, project=project, title=title, width="fluid", blocks=blocks)


def _workspaces() -> Any:
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise BadInput("to=wandb_report: needs the optional package; pip install 'denoiselab[reports]'.") from None
    return reports
