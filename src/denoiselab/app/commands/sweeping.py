"""`train.py -m ... sweep=processes`: a sweep whose jobs are trees of processes, from a queue on the disk."""

from __future__ import annotations

import gc
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from denoiselab.app.config import multirun, overrides
from denoiselab.app.config.settings import Config, SweepSettings, parse
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.devices import elsewhere
from denoiselab.app.runs.launches import check_alone
from denoiselab.app.runs.run_id import run_id
from denoiselab.app.sweeps.queue import Queue
from denoiselab.app.sweeps.records import MANIFEST, Sweep, key_of
from denoiselab.app.sweeps.search import Search, search
from denoiselab.app.sweeps.slurm import Slurm
from denoiselab.app.sweeps.starters import Processes, Starter, alone
from denoiselab.app.sweeps.table import summarised
from denoiselab.app.sweeps.worker import work
from denoiselab.console import console
from denoiselab.errors import BadInput, Failure
from denoiselab.nodes.instantiate import construct

Jobs = Sequence[Sequence[str]]
_GROUP = "sweep"

# Options of a sweep that may be others when it goes on.
_FREE = ("jobs", "devices_per_job", "sbatch", "trials", "resume")


def asks(given: Sequence[str]) -> list[str]:
    """The overrides that are about the sweep itself."""
    return [text for text in given if key_of(text).replace("/", ".").partition(".")[0] == _GROUP]


def run(name: str, arguments: Namespace, check: Callable[[Jobs], list[Config]]) -> None:
    """Start a sweep, or go on with one, and end with its table.

    Args:
        name: Of the program.
        arguments: The command line.
        check: Checks jobs before the first one starts, and returns their configurations.

    Raises:
        BadInput: If an option of the sweep or of a job is wrong.
        Failure: If jobs failed.
        Stopped: After a signal, when all jobs have saved and ended.
    """
    own = asks(arguments.overrides)
    rest = [text for text in arguments.overrides if text not in own]
    places = [str(folder) for folder in arguments.folders.values()]
    flags = shlex.split(override("hydra.searchpath", places)) if places else []
    settings, former, rest = _settings(name, own, rest)
    slurm = settings.launcher == "slurm"
    if slurm:
        check_alone(f"{_GROUP}=slurm")
    for text in rest:
        if key_of(text) in ("hydra/launcher", "hydra/sweeper"):
            raise BadInput(f"{text}: sweep={settings.launcher} starts the jobs itself; leave it out.")
    found = _search(rest, settings)
    jobs = overrides.jobs(name, rest, multirun=True) if found is None else [[*job] for job in found.corners]
    extra = _devices(rest, settings)
    if not slurm:
        gpus, cores = _available()
        on_cpu = not gpus or overrides.composed(name, jobs[0]).trainer.accelerator == "cpu"
        _check_count(settings.devices_per_job, cores if on_cpu else gpus, "core(s)" if on_cpu else "GPU(s)")
    with elsewhere() if slurm else alone():
        configs = check([[*job, *extra] for job in jobs])
    _check_pruner(configs, settings)
    program = [sys.executable, str(Path(sys.argv[0]).absolute()), *flags]
    starter = (_slurm if slurm else _processes)(configs, settings, program)
    planned = {} if found is not None else {n: (*job, *extra) for n, job in enumerate(jobs)}
    place = multirun.sweep_directory(name, rest) if former is None else str(former.directory)
    if place is None:
        raise BadInput("hydra.sweep.dir: is not known before the jobs are; pass hydra.sweep.dir=<directory>.")
    if former is None and (Path(place) / MANIFEST).exists():
        raise BadInput(f"hydra.sweep.dir={place}: holds a sweep; go on with it by sweep.resume={place}.")
    sweep = Sweep(
        directory=Path(place),
        id=run_id() if former is None else former.id,
        launcher=settings.launcher,
        swept=tuple(multirun.swept_keys(rest, jobs)),
        metric=str(configs[0]["optimized_metric"]),
        command=tuple(sys.argv),
        planned=planned if former is None else _with_devices(former, rest, extra),
        options={**settings.model_dump(), "given": rest, "places": places},
    )
    _work(sweep, found, starter, extra)


def check_place(name: str, given: Sequence[str], jobs: Jobs) -> None:
    """Check that a multirun of Hydra's launchers does not take the directory of another sweep, whose record it writes.

    Args:
        name: Of the program.
        given: The overrides.
        jobs: Those of its jobs.

    Raises:
        BadInput: If there is one with a queue, or whose jobs have other values of what is swept.
    """
    place = Path(multirun.sweep_directory(name, given) or "")
    if not (place / MANIFEST).exists():
        return
    former = Sweep.read(place, "hydra.sweep.dir")
    if former.launcher in overrides.names(_GROUP):
        raise BadInput(f"hydra.sweep.dir={place}: holds a sweep; go on with it by {override('sweep.resume', place)}.")
    swept = {*former.swept, *multirun.swept_keys(given, jobs)}
    for number, job in enumerate(jobs):
        ours, theirs = ({w for w in words if key_of(w) in swept} for words in (job, former.planned.get(number, job)))
        if ours != theirs:
            was, now = (" ".join(sorted(one)) or "nothing" for one in (theirs - ours, ours - theirs))
            raise BadInput(f"hydra.sweep.dir={place}: job {number} there has {was}, not {now}; start a new sweep.")


def _work(sweep: Sweep, found: Search | None, starter: Starter, extra: Sequence[str]) -> None:
    say = console(stderr=True).print
    gc.enable()  # which the start of a program turns off
    sweep.directory.mkdir(parents=True, exist_ok=True)
    sweep.write()
    say(f"sweep {sweep.directory}: {starter.slots} job(s) at a time; their output is in <job>/job.log")
    with Queue(sweep.directory, found, tuple(extra)) as queue:
        queue.plan(sweep.planned)
        for job in queue.again():
            how = "has no record" if job.status == "waiting" else job.status
            say(f"job {job.number} runs again; it {how}{': ' * bool(job.error)}{job.error or ''}")
        try:
            work(sweep, queue, starter, say, f"stopped; to run the rest: {sweep.resuming}")
        finally:
            summarised(sweep.directory)
    sweep = Sweep.read(sweep.directory)
    failed = [job for job in sweep.jobs if job.status in ("failed", "stopped", "waiting")]
    if failed:
        text = f"job {failed[0].number}: {failed[0].error or failed[0].status}"
        raise Failure(f"{len(failed)} of {len(sweep.jobs)} jobs failed ({text}) To run them again: {sweep.resuming}")


def _settings(name: str, own: Sequence[str], rest: list[str]) -> tuple[SweepSettings, Sweep | None, list[str]]:
    """The options of the sweep, the sweep that goes on, and the overrides of its jobs."""
    # A pruner is a choice, which is written as a value.
    words = [f"sweep/pruner={text.partition('=')[2]}" if key_of(text) == "sweep.pruner" else text for text in own]
    typed = {key_of(text).replace("/", ".").split(".")[1] for text in words if key_of(text) != _GROUP}
    resumed = next((text.partition("=")[2] for text in words if key_of(text) == "sweep.resume"), None)
    former = None if resumed in (None, "null") else Sweep.read(Path(_unquoted(words, "resume")), "sweep.resume")
    if former is not None and former.launcher not in overrides.names(_GROUP):
        raise BadInput(
            f"sweep.resume={former.directory}: Hydra's {former.launcher} started it; go on with it by its own command "
            f"and hydra.sweep.dir={former.directory}."
        )
    chosen = next((text for text in words if key_of(text) == _GROUP), None)
    if former is not None and chosen not in (None, f"{_GROUP}={former.launcher}"):
        raise BadInput(f"{chosen}: the sweep in {former.directory} has {_GROUP}={former.launcher}; leave it out.")
    if chosen is None:
        if former is None:
            names = ", ".join(overrides.names(_GROUP))
            raise BadInput(f"{own[0]}: needs a launcher; add sweep=..., one of {names}.")
        words = [f"sweep={former.launcher}", *words]
    node = overrides.composed(name, words).get(_GROUP)
    if node is None:
        raise BadInput(f"{own[0]}: has no effect; choose sweep={', '.join(overrides.names(_GROUP))}.")
    content: Any = OmegaConf.to_container(node, resolve=True)
    if former is not None:
        given = former.options.get("given", [])
        if rest and sorted(rest) != sorted(given):
            was, now = (
                " ".join(text for text in a if text not in b) or "nothing" for a, b in ((given, rest), (rest, given))
            )
            raise BadInput(
                f"sweep.resume={former.directory}: it was started with {was} where this command has {now}; leave its "
                "overrides out, or start a new sweep."
            )
        before = {key: value for key, value in former.options.items() if key in SweepSettings.model_fields}
        for key in sorted(typed.difference(_FREE)):
            if content[key] != before[key]:
                raise BadInput(
                    f"sweep.{key}={content[key]}: the sweep in {former.directory} has {before[key]}; leave it out."
                )
        content, rest = {**before, **{key: content[key] for key in typed}}, [*given]
    settings = parse(SweepSettings, content, _GROUP)
    if settings.pruner is not None:
        construct(settings.pruner, "sweep.pruner")
    return settings, former, rest


def _unquoted(words: Sequence[str], key: str) -> str:
    (text,) = (one.value() for one in overrides.parsed(words) if one.key_or_group == f"{_GROUP}.{key}")
    return str(text)


def _search(rest: Sequence[str], settings: SweepSettings) -> Search | None:
    if settings.sampler == "grid":
        if settings.trials is not None:
            raise BadInput(f"sweep.trials={settings.trials}: is of searches; a grid runs all of its jobs.")
        return None
    return search(rest, settings.sampler, settings.trials, settings.seed)


def _devices(rest: Sequence[str], settings: SweepSettings) -> list[str]:
    """The override with which a job uses its devices."""
    count = f"trainer.devices={settings.devices_per_job}"
    for text in rest:
        if key_of(text) == "trainer.devices" and text != count:
            raise BadInput(
                f"{text}: each job has sweep.devices_per_job={settings.devices_per_job} device(s); set that."
            )
    return [] if settings.devices_per_job == 1 or count in rest else [count]


def _with_devices(former: Sweep, rest: Sequence[str], extra: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """The planned jobs of a sweep that goes on, with its present number of devices."""
    own = {text for text in rest if key_of(text) == "trainer.devices"}
    return {
        number: (*(text for text in job if key_of(text) != "trainer.devices" or text in own), *extra)
        for number, job in former.planned.items()
    }


def _check_pruner(configs: Sequence[Mapping[str, Any]], settings: SweepSettings) -> None:
    """Check that a pruner has comparable scores of all jobs."""
    for config in configs if settings.pruner is not None else ():
        if (config["callbacks"].get("frontier") or {}).get("every_images") is None:
            raise BadInput("sweep.pruner: needs scores during training; give callbacks.frontier.every_images=...")
        if not config["optimized_metric"].startswith("frontier/"):
            raise BadInput(
                f"optimized_metric={config['optimized_metric']}: sweep.pruner compares scores of callbacks.frontier; "
                "give frontier/best, or leave the pruner out."
            )
        for key in ("every_images", "num_samples"):
            if config["callbacks"]["frontier"].get(key) != configs[0]["callbacks"]["frontier"].get(key):
                raise BadInput(f"callbacks.frontier.{key}: sweep.pruner compares jobs, which need one value of it.")


def _slurm(configs: Sequence[Mapping[str, Any]], settings: SweepSettings, program: Sequence[str]) -> Starter:
    """What sends jobs to SLURM, with one task a device."""
    nodes = {config["trainer"]["num_nodes"] for config in configs}
    if len(nodes) > 1:
        raise BadInput(f"trainer.num_nodes={sorted(nodes)}: all jobs of sweep=slurm take as many; sweep them apart.")
    if shutil.which("sbatch") is None:
        raise BadInput("sweep=slurm: there is no sbatch here; start it where SLURM's commands are, or sweep=processes.")
    return Slurm(program, settings.jobs or 100, nodes.pop(), settings.devices_per_job, settings.sbatch)


def _processes(configs: Sequence[Mapping[str, Any]], settings: SweepSettings, program: Sequence[str]) -> Starter:
    """What starts jobs on this machine, with the devices of each slot."""
    for config in configs:
        if config["requeue"]:
            raise BadInput("requeue=true: jobs of sweep=processes are no jobs of SLURM's; use sweep=slurm.")
        if config["trainer"]["num_nodes"] > 1:
            count = f"trainer.num_nodes={config['trainer']['num_nodes']}"
            raise BadInput(f"{count}: sweep=processes is on one machine; use sweep=slurm.")
    per_job, jobs = settings.devices_per_job, settings.jobs
    gpus, cores = _available()
    if not gpus or all(config["trainer"]["accelerator"] == "cpu" for config in configs):
        _check_count(per_job, cores, "core(s)")
        jobs = jobs or 1
        return Processes(program, [None] * jobs, max(1, cores // (jobs * per_job)))
    _check_count(per_job, gpus, "GPU(s)")
    jobs = jobs or gpus // per_job
    if jobs * per_job > gpus:
        raise BadInput(
            f"sweep.jobs={jobs}: {jobs} jobs of sweep.devices_per_job={per_job} need {jobs * per_job} GPUs; this "
            f"machine has {gpus}."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(gpus)] if not visible else visible.split(",")[:gpus]
    return Processes(program, [",".join(names[n * per_job : (n + 1) * per_job]) for n in range(jobs)])


def _available() -> tuple[int, int]:
    """The numbers of GPUs and of cores."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.cuda.device_count(), cores


def _check_count(per_job: int, available: int, what: str) -> None:
    if per_job > available:
        raise BadInput(f"sweep.devices_per_job={per_job}: this machine has {available} {what}.")
