"""The frontiers of checkpoints, each in its run's own directory; several on one page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.distributed as dist

from denoiselab.app.building import checks, parts
from denoiselab.app.building.classifier_guidance import steering
from denoiselab.app.building.error_splits import fine_of
from denoiselab.app.building.evaluator import Evaluator, frontier_of
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.rehearsal import bound_decoding
from denoiselab.app.commands import outputs
from denoiselab.app.commands.report import matches, write_joint
from denoiselab.app.config import overrides
from denoiselab.app.config.settings import Config, Evaluation, SampleSettings, parse, replaced
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.names import name_of
from denoiselab.app.runs.paths import device_of, newest
from denoiselab.app.sweeps.records import group_of
from denoiselab.app.tasks.measuring import Measuring
from denoiselab.app.tasks.task import check_finite, check_level, check_ranges
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation import Frontier, Record, Store
from denoiselab.evaluation.decided import DECIDED
from denoiselab.evaluation.report.budget import Budget
from denoiselab.files import MANIFEST, sha256_of
from denoiselab.from_config import identity
from denoiselab.nodes.instantiate import MEASURES, MODEL, construct
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.pretrained import Loaded, read
from denoiselab.training.checkpoint_files import CHECKPOINTS, home_of, saved
from denoiselab.training.interruption import Interruption

if TYPE_CHECKING:
    from denoiselab.training.loggers import WandB  # imports Lightning
    from denoiselab.training.trackers import Tracker

_CACHE = "logs/cache"  # for a run that names no other


@dataclass(kw_only=True)
class ScoreFrontier(Measuring):
    """Score samplers into each run's directory; an option that is null is as in the run's own evaluation.

    Several checkpoints are written to one page too.

    Args:
        samplers: Names of conf/sampler, each with a grid behind an @ if not its own, or names with options, such as
            {name: ddim@karras, eta: 0.5}, which is called by them or by its `label`.
        nfe: Network calls a sample.
        extra_nfe: Further budgets of single samplers; none where nfe alone is given.
        guidance: Scales of the guiders.
        guiders: Names of conf/guider, or names with options, such as {name: apg, eta: 0.5}: each at every scale, or
            at one of its own, as {name: cfgpp, scale: 0.6}.
        rescore: Whether cells are scored again that another version of the code has scored, which are kept, and those
            whose influences are lost.
        stop: `fixed`: num_samples a cell; `decided`: until it is sure which cells are better.
        level: Probability of any wrong verdict.
        max_samples: With stop=decided, samples a cell at most.
        boundary: With stop=decided, `simulated` for this max_samples, or `always_valid`, with which it may be raised.
        best_under: A budget of a sample, such as 40ms, 10calls or 3.5GFLOPs, of which the best cells are named.
        error_split: Samples of each cell that are compared with fine runs of the ODE; 0 for none.
        fine_samplers: Two ODE samplers, the fine runs.
        fine_nfe: Network calls of each fine run.
        published: A name of conf/published, whose values stand in the table beside ours: those of each sampler's
            `curve`.
    """

    samplers: list[str | dict[str, Any]] | None = None
    nfe: list[int] | None = None
    extra_nfe: dict[str, list[int]] | None = None
    guidance: list[float] | None = None
    guiders: list[str | dict[str, Any]] | None = None
    rescore: bool = False
    stop: Literal["fixed", "decided"] | None = None
    level: float | None = None
    max_samples: int | None = None
    boundary: Literal["simulated", "always_valid"] | None = None
    best_under: str | float | None = None
    error_split: int | None = None
    fine_samplers: list[str] | None = None
    fine_nfe: int | None = None
    published: str | None = None

    several: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_level(self.level)
        check_ranges(2, max_samples=self.max_samples)
        check_ranges(fine_nfe=self.fine_nfe)
        check_ranges(0, error_split=self.error_split)
        if self.best_under is not None:
            Budget(str(self.best_under))  # checked: a number has no unit
        for scale in self.guidance or []:
            check_finite(scale)

    def check(self, asked: SampleSettings) -> None:
        given = self.options(asked)  # as written: parts of entries, such as a threshold, are not made yet
        parts.sampler_nodes(given["samplers"] or [], "task.samplers")
        parts.guider_nodes(given["guiders"] or [], "task.guiders")

    def run(self, asked: SampleSettings) -> None:
        """Score; finished cells are stored where the program is stopped."""
        options = {key: value for key, value in self.options(asked).items() if key != "best_under"}
        jobs = [_job(path, options, asked) for path in checkpoints(asked.ckpt)]
        out = Path(asked.out or "")
        begun = (out / "frontier.json").is_file() or (out / DECIDED).is_dir()
        alone = asked.out is not None and len(jobs) == 1
        if alone and not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"out={out}: exists already, and holds no frontier; name another folder with out=...")
        leader = is_leader()
        interruption = Interruption("stopped; the same command goes on after the last cell that was finished.")
        stores = [Store(out if alone else job.home, job.evaluation.level) for job in jobs]
        with ExitStack() as stack, interruption:
            device = join_ranks(asked, stack)
            for job, store in zip(jobs, stores, strict=True):
                _score(job, asked, evaluator_of(job, asked, store, interruption, device), leader=leader)
        homes = list(dict.fromkeys(store.directory for store in stores))
        if len(homes) > 1 and leader:
            write_joint(homes, asked.out, jobs[0].evaluation.level)


@dataclass(frozen=True)
class Job:
    """One checkpoint to score."""

    path: Path
    home: Path
    loaded: Loaded
    frontier: Frontier
    config: Config
    evaluation: Evaluation
    fine: Frontier | None = None


def checkpoints(asked: str | Sequence[str]) -> list[Path]:
    """The files that were asked for, run directories and patterns resolved, each once.

    A pattern passes over what is no run and no checkpoint: pages, tables and sweeps lie beside runs.
    """
    found: dict[Path, None] = {}
    for one in [asked] if isinstance(asked, str) else asked:
        for name in matches(one, "ckpt"):
            path = Path(name)
            is_checkpoint = path.suffix == ".ckpt" and (path.is_file() or (path / MANIFEST).is_file())
            if name == one or is_checkpoint or saved(path / CHECKPOINTS):
                found[newest(path)] = None
    if not found:
        raise BadInput(f"ckpt={asked}: no checkpoint there; name at least one run directory or checkpoint file.")
    return [*found]


def _job(path: Path, options: Config, asked: SampleSettings) -> Job:
    loaded = read(path, {} if asked.conditioner is None else asked.conditioner.given, asked.data)
    own = {key: value for key, value in options.items() if value is not None}
    if asked.weights is not None:
        own["weights"] = asked.weights
        for one in [asked.weights] if isinstance(asked.weights, str) else asked.weights:
            loaded.names.chosen(one, "weights")
    config, evaluation = evaluation_of(loaded, own)
    guided = Guided(loaded.model, loaded.config, path)
    frontier = frontier_of(config["evaluation"], guided, loaded.names, "task")
    fine = fine_of(config["evaluation"], frontier, guided, loaded.names, "task")
    return Job(path, home_of(path), loaded, frontier, config, evaluation, fine)


def evaluation_of(loaded: Loaded, own: Mapping[str, Any]) -> tuple[Config, Evaluation]:
    """The evaluation of a checkpoint: its run's, with the options `own`; and what it is parsed to.

    Raises:
        BadInput: If an option is refused, or samples of the model cannot be scored so.
    """
    trained = loaded.config.get("evaluation")
    if not trained:  # an import has none
        trained = overrides.choice("evaluation", "default")
        if own.get("published"):
            own = {"extractor": overrides.choice("evaluation/extractor", "inception"), **own}
    default: Config = {
        "weights": None, "guidance": [1], "guiders": ["cfg"], "metric_options": {}, "diversity": True,
        "reference": None, "reference_n": None, "reference_data": "same", "rescore": False, "stop": "fixed",
        "level": 0.05, "max_samples": 50_000, "boundary": "simulated", "error_split": 0,
        "fine_samplers": ["unipc", "heun"], "fine_nfe": 200, "published": None,
    }  # fmt: skip
    evaluation = replaced({**default, **trained}, own)
    parsed = parse(Evaluation, evaluation, "task")
    config = {"data": loaded.data_node, "evaluation": evaluation}
    check_nodes({"data": config["data"]}, MODEL)
    # The checkpoint's, where the user gives no other; samplers may have options that are parts of them.
    check_nodes({"evaluation": evaluation}, (*MEASURES, "denoiselab.samplers."))
    parts.build_extractor(config, parsed, parsed.num_samples, option="task")
    checks.check_conditions(loaded.model)
    return config, parsed


def evaluator_of(
    job: Job, asked: SampleSettings, store: Store, interruption: Interruption, device: torch.device
) -> Evaluator:
    """The evaluator of a job, whose model is put on the device.

    Raises:
        BadInput: If the data cannot be loaded.
    """
    loaded, config = job.loaded, job.config
    try:
        images, held_out = construct(config["data"], "data").load()
    except ValueError as error:
        raise BadInput(str(error)) from None
    steer = steering(asked.classifier_guidance, loaded, device)
    if steer is not None:
        for name, sampler in {**job.frontier.samplers, **(job.fine.samplers if job.fine else {})}.items():
            steer.check_sampler(sampler, name)
    bound_decoding(loaded.model.codec, asked.decode_memory)
    loaded.model.denoiser.to(device)
    return Evaluator(
        model=loaded.model,
        identity=identity(loaded.config),
        applied=loaded.applied,
        extractor=parts.build_extractor(config, job.evaluation, job.evaluation.num_samples, images, "task"),
        images=images,
        held_out=held_out,
        data=config["data"]["name"],
        cache=Path(loaded.config.get("paths", {}).get("cache_dir", _CACHE)),
        store=store,
        name=name_of(job.home),
        interruption=interruption,
        steering=steer,
    )


def _score(job: Job, asked: SampleSettings, evaluator: Evaluator, *, leader: bool) -> None:
    loaded = job.loaded
    if leader:
        console(stderr=True).print(f"{job.path}: {loaded.images_seen:,} images seen")
        outputs.tell_budgets(job.frontier)
        outputs.tell_diversity(job.frontier, job.evaluation, "task")
    records = evaluator.score(job.frontier, job.evaluation, loaded.images_seen)
    if job.fine is not None:
        outputs.split_errors(evaluator, (job.frontier, job.fine), job.evaluation, loaded.images_seen, records)
    if not leader:
        return
    outputs.write_outputs(records, evaluator.store, loaded.model.codec.shape, job.evaluation.level)
    _report(job, asked, records, evaluator.store.directory)


def _report(job: Job, asked: SampleSettings, records: list[Record], directory: Path) -> None:
    """Print the frontier, and send it to trackers: an evaluation in the group of its training run, or of its sweep."""
    try:
        group = str(json.loads((job.home / "run.json").read_text(encoding="utf-8"))["wandb_id"])
    except (OSError, ValueError, KeyError, TypeError):
        group = ""
    checkpoint = sha256_of(job.path)[:8]
    group = group or checkpoint
    trackers: dict[str, WandB | Tracker] = construct(asked.logger, "logger")
    opened = [
        tracker.open(
            directory, f"{group}-eval-{checkpoint}", f"{name_of(job.home)} frontier of {job.path.stem}",
            job.loaded.config, group=group_of(job.home) or group, job_type="evaluation",
        )
        for tracker in trackers.values()
    ]  # fmt: skip
    budget = asked.task.get("best_under")
    published = outputs.published(job.loaded.config, job.config["evaluation"], records)
    outputs.report_records(records, directory, opened, None if budget is None else Budget(budget), published)
    for logger in opened:
        logger.close(0)


def join_ranks(asked: SampleSettings, stack: ExitStack) -> torch.device:
    """This process's device; processes that torchrun started share the samples among them."""
    device = device_of(asked.accelerator)
    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
        stack.callback(dist.destroy_process_group)
    return device
