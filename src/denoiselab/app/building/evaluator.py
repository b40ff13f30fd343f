"""Evaluation of a model: during training, at its end, and from a checkpoint."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.distributed as dist

from denoiselab.app.building import checks, controls, parts
from denoiselab.app.building.analytic_moments import learn
from denoiselab.app.building.classifier_guidance import Steering
from denoiselab.app.building.codec_score import codec_score
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.held_out import HELD_OUT_LOSS
from denoiselab.app.building.stopping import agree, check_drawing
from denoiselab.app.config.choices import own_scale
from denoiselab.app.config.settings import Evaluation
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.run_directory import git_revision
from denoiselab.conditioners import Conditioner
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.evaluation import (
    ContractError,
    Control,
    Extractor,
    Frontier,
    Measure,
    OptimizedMetric,
    Record,
    Stopping,
    Store,
    Subject,
    Undecidable,
    Workspace,
)
from denoiselab.evaluation.diversity import with_diversity
from denoiselab.evaluation.verdicts.sequential import FEWEST
from denoiselab.from_config import with_hashes
from denoiselab.model import Model
from denoiselab.samplers import Sampler
from denoiselab.training.ema import Names
from denoiselab.training.interruption import Interruption

Config = Mapping[str, Any]

# Number of draws of fresh data whose score is averaged.
_FRESH = 4


def frontier_of(evaluation: Config, guided: Guided, names: Names, option: str = "evaluation") -> Frontier:
    """The frontier of a checked node `evaluation`, of a model that is guided."""
    nodes, model = parts.sampler_nodes(evaluation["samplers"], f"{option}.samplers"), guided.model
    parts.published_values(evaluation, option)
    asked = evaluation["weights"]
    weights = [names.chosen(one, f"{option}.weights") for one in (asked if isinstance(asked, list) else [asked])]
    entries = evaluation.get("guiders", ["cfg"])
    guiders, own = parts.guider_nodes(entries, f"{option}.guiders"), [*map(own_scale, entries)]
    guidance = replace(guided, weights=weights).all(evaluation["guidance"], guiders, f"{option}.guiders", own)
    checks.check_guidance(model, guidance, f"{option}.guidance={[*map(float, evaluation['guidance'])]}")
    samplers = parts.build_samplers(nodes)
    for name, sampler in samplers.items():
        checks.check_sampler(sampler, model, guidance, option, name)
    try:
        frontier = Frontier(
            samplers,
            {name: with_hashes(node) for name, node in nodes.items()},
            model.denoiser.schedule,
            evaluation["nfe"],
            evaluation["extra_nfe"],
            evaluation["num_samples"],
            evaluation["batch_size"],
            evaluation["seed"],
            weights,
            guidance,
            rescore=evaluation["rescore"],
            stopping=_stopping(evaluation, option) if evaluation.get("stop") == "decided" else None,
        )
    except ValueError as error:
        raise BadInput(str(error).replace("evaluation.", f"{option}.")) from None
    for (name, steps), calls in zip(frontier.cells, frontier.calls, strict=True):
        checks.check_steps(samplers[name], model, guidance, steps, f"{option}: {name} at {calls} calls: ")
    return frontier


def _stopping(evaluation: Config, option: str) -> Stopping:
    """When cells have enough samples, of a node that says stop=decided."""
    if not evaluation["metrics"]:
        raise BadInput(f"{option}.stop=decided: it takes a metric of features; allowed without one: fixed.")
    if evaluation["max_samples"] < FEWEST:
        raise BadInput(
            f"{option}.max_samples={evaluation['max_samples']}: the first look is at {FEWEST} samples or more."
        )
    return Stopping(evaluation["level"], evaluation["max_samples"], evaluation["boundary"])


def optimized_metric(name: str, frontier: Frontier, advice: str = "") -> OptimizedMetric:
    """The metric of a frontier by that name."""
    try:
        metric = OptimizedMetric("frontier/best" if name == HELD_OUT_LOSS else name)
        metric.check(frontier)
    except ValueError as error:
        raise BadInput(f"{error}{advice}") from None
    return metric


@dataclass
class Evaluator:
    """Scores the frontiers of one model.

    Args:
        model: On the device of the sampling.
        identity: `identity` of the model's configuration.
        applied: Takes a name of weights; within its context the denoiser has them.
        extractor: Makes the scorer.
        images: Training images or points.
        held_out: Held-out images or points.
        data: The data set's name.
        cache: Folder of trained extractors and reference statistics.
        store: Of finished cells.
        name: Of the run.
        interruption: Catches signals.
        steering: Guidance by a classifier; None for none.
    """

    model: Model
    identity: str
    applied: Callable[[str], AbstractContextManager[None]]
    extractor: Extractor
    images: DataSet
    held_out: DataSet
    data: str
    cache: Path
    store: Store
    name: str
    interruption: Interruption
    steering: Steering | None = None
    _measures: dict[str, Measure] = field(default_factory=dict, init=False)
    _floors: dict[int, dict[str, float]] = field(default_factory=dict, init=False)

    def score(
        self,
        frontier: Frontier,
        evaluation: Evaluation,
        images_seen: int,
        *,
        shown: bool = True,
        store: Store | None = None,
    ) -> list[Record]:
        """The records of a frontier, and stored ones of the same model and measure.

        Raises:
            Stopped: If a signal came; finished cells are stored.
            BadInput: If a metric or an extractor breaks its contract.
        """
        measure = self.measure(evaluation)
        scorer, reference = measure.scorer, measure.reference
        if evaluation.diversity and frontier.stopping is None and any(one.acts for one in frontier.guidance):
            measure = self._with_diversity(measure, frontier.num_samples)
        protocol = {
            "data": self.data,
            "split": scorer.split,
            "images_seen": images_seen,
            "model_sha256": self.identity,
            **self._conditions,
            **scorer.facts,
            "versions": {"torch": importlib.metadata.version("torch")},
            **({} if self.steering is None else self.steering.facts),
            **({} if (side := getattr(self.model.codec, "tile", None)) is None else {"decode_tile": side}),
        }
        file = getattr(reference, "path", None)
        notes = {
            "run": self.name,
            "reference_file": None if file is None else str(file),
            "reference_data": dict(getattr(reference, "of", {})),
            "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch")},
            **git_revision(),
            **({} if measure.beside is None else {"beside": measure.beside.scorer.facts["beside"]}),
            **self._bounds(evaluation, frontier, measure),
            **self._controls(measure, frontier.num_samples),
            **controls.columns(self.model),
        }
        control = self.control(shown=shown)._replace(check=lambda moment: check_drawing(self.interruption))
        try:
            with self.model.evaluating():
                records = frontier.run(self.subject, measure, store or self.store, protocol, notes, control)
        except (ContractError, Undecidable) as error:
            raise BadInput(str(error)) from None
        wanted = set() if measure.beside is None else {*measure.beside.scorer.lower_is_better}
        lacking = sum(not wanted <= {*record["scores"]} for record in records if not record["error"])
        if lacking and is_leader():
            console(stderr=True).print(
                f"{lacking} cells were scored before without {', '.join(sorted(wanted - {*scorer.lower_is_better}))}; "
                "evaluation.rescore=true (sample.py: task.rescore=true) scores them again."
            )
        return records

    def control(self, *, shown: bool = True) -> Control:
        """Interruption by this evaluator's signals, and whether there is a progress bar."""
        return Control(self.check, partial(agree, self.interruption, self.model.device), shown)

    @property
    def subject(self) -> Subject:
        """The model, as cells are scored."""
        return Subject(self.model, self.applied, self.steering, self._learn)

    def measure(self, evaluation: Evaluation) -> Measure:
        """The scorer by the metrics of a configuration, and its reference; made once."""
        key = json.dumps([evaluation.metrics, evaluation.metric_options, evaluation.reference], sort_keys=True)
        if key not in self._measures:
            work, metrics = Workspace(self.cache, self.check, shown=is_leader()), parts.build_metrics(evaluation)
            try:
                scorer = self.extractor.fit(self.images, self.held_out, metrics, parts.metric_nodes(evaluation), work)
                data = self.images if scorer.split == "train" else self.held_out
                identity, given = {"data": self.data, "split": scorer.split}, parts.given_reference(evaluation)
                reference = scorer.reference(data, identity, work, self.model.device, given)
            except (ValueError, ContractError) as error:
                raise BadInput(str(error)) from None
            if scorer.description and work.shown and not self._measures:
                console(stderr=True).print(f"{self.data} is scored by {scorer.description}")
            self._measures[key] = Measure(scorer, reference)
        return self._measures[key]

    def _with_diversity(self, measure: Measure, num_samples: int) -> Measure:
        """A measure with precision, recall and another distance beside its scores, made once."""
        key = f"{id(measure)} {num_samples}"
        if key not in self._measures:
            work = Workspace(self.cache, self.check, shown=is_leader())
            data = self.images if measure.scorer.split == "train" else self.held_out
            self._measures[key] = with_diversity(measure, data, self.data, num_samples, work, self.model.device)
        return self._measures[key]

    def _learn(self, sampler: Sampler) -> dict[str, Any]:
        """Measure the moments that an Analytic-DPM sampler needs; all ranks measure the same."""
        found = learn(sampler, self.model, lambda: self.images, self.store.directory, self.check, writes=is_leader())
        return {} if found is None else {"moments_sha256": found}

    def check(self, moment: object = None) -> None:
        """Stop if a signal has come. Several ranks stop only together."""
        if not dist.is_initialized():
            self.interruption.check()

    def _controls(self, measure: Measure, num_samples: int) -> dict[str, Any]:
        """What the pictures of the captions have, where metrics read these; empty without."""
        split = self.model.conditioner.pictures
        data = self.images if split == "train" else self.held_out
        found = controls.controls(self.model, measure, data, num_samples)
        if found and is_leader():
            controls.tell(found, split, min(num_samples, len(data)))
        return {"controls": found} if found else {}

    def _bounds(self, evaluation: Evaluation, frontier: Frontier, measure: Measure) -> dict[str, Any]:
        """The scores of fresh data and of the codec at the cells' number of samples, where they have the same."""
        if frontier.stopping is not None:
            return {}
        of_codec = codec_score(self.model, self.held_out, measure, frontier.num_samples, self.store.directory)
        return {**self._floor(evaluation, frontier.num_samples), **of_codec}

    def _floor(self, evaluation: Evaluation, num_samples: int) -> dict[str, float]:
        """The mean score of as many fresh draws of the data as a cell has samples: the best that a model can reach.

        Empty if no fresh data can be drawn.
        """
        if num_samples not in self._floors:
            self._floors[num_samples] = {}
            scorer, reference = self.measure(evaluation)[:2]
            draws = [self.images.fresh(num_samples, number) for number in range(_FRESH)]
            values = []
            for data in (draw for draw in draws if draw is not None):
                statistics = scorer.statistics()
                statistics.update(data.stored(torch.arange(len(data))))
                values.append(scorer.scores(statistics, reference)[scorer.metric].value)
            if values:
                self._floors[num_samples] = {"floor": fmean(values), "floor_std": stdev(values)}
        return self._floors[num_samples]

    @cached_property
    def _conditions(self) -> dict[str, str]:
        """The fingerprint of the held-out data, if samples are conditioned on them."""
        uses_data = type(self.model.conditioner).set_held_out is not Conditioner.set_held_out
        return {"held_out_sha256": self.held_out.fingerprint} if uses_data and len(self.held_out) else {}
