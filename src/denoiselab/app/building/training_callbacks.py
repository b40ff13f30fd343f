"""Periodic frontier evaluations and sample previews for the training callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from denoiselab.app.building import parts
from denoiselab.app.building.evaluator import Evaluator, frontier_of, optimized_metric
from denoiselab.app.building.guiders import Guided
from denoiselab.app.config.settings import Evaluation, parse
from denoiselab.app.runs.devices import is_leader
from denoiselab.console import console
from denoiselab.evaluation.ranks import divided
from denoiselab.evaluation.report import tables
from denoiselab.media.kinds import medium
from denoiselab.model import Drawing, Model
from denoiselab.training.ema import Names
from denoiselab.training.snapshots import width_of

if TYPE_CHECKING:
    from denoiselab.training.callbacks_evaluation import Scoring

_ADVICE = (
    " It chooses the best checkpoint, so callbacks.frontier.samplers and .nfe must hold such a cell; "
    "or set callbacks.frontier.every_images=null."
)


# The callbacks that draw samples: a classifier's training has none of them.
OF_SAMPLES = ("frontier", "preview")


class PeriodicEvaluations:
    """Makes the functions that the callbacks `frontier` and `preview` call.

    Args:
        names: Of its weights.
        evaluator: Scores it; None to check the options only.
    """

    def __init__(
        self, config: Mapping[str, Any], model: Model, names: Names, evaluator: Evaluator | None = None
    ) -> None:
        self._config, self._model, self._names, self._evaluator = config, model, names, evaluator
        whole = parse(Evaluation, config["evaluation"], "evaluation")
        first = whole.metrics[:1]  # the others may need more samples
        options = {name: whole.metric_options[name] for name in first if name in whole.metric_options}
        self._measure = whole.model_copy(update={"metrics": first, "metric_options": options, "diversity": False})

    def ready(self) -> None:
        """Train the extractor and compute the reference."""
        assert self._evaluator is not None
        self._evaluator.measure(self._measure)

    def frontier(self, samplers: Sequence[str | dict[str, Any]], nfe: Sequence[int], num_samples: int) -> Scoring:
        """A function that scores a small frontier: the run's first weights, guidance and metric."""
        evaluation = self._config["evaluation"]
        own = {"samplers": samplers, "nfe": nfe, "extra_nfe": {}, "num_samples": num_samples, "stop": "fixed"}
        small = {**evaluation, **own, "weights": first_weights(self._config, self._names), **_firsts(evaluation)}
        frontier = frontier_of(small, Guided(self._model, self._config), self._names, "callbacks.frontier")
        parts.build_extractor(self._config, self._measure, num_samples)
        never = self._config["callbacks"]["frontier"]["every_images"] is None
        name = "frontier/best" if never else self._config["optimized_metric"]
        metric, cells = optimized_metric(name, frontier, _ADVICE), frontier.cells

        def score(images_seen: int) -> tuple[Mapping[str, float], float]:
            assert self._evaluator is not None
            records = self._evaluator.score(frontier, self._measure, images_seen, shown=False)
            (weights,), (guidance,) = frontier.weights, frontier.guidance
            own = [r for r in records if r["weights"] == weights and guidance.made(r)]
            mine = [r for r in own if (r["sampler"], r["steps"]) in cells]
            try:
                chosen = metric(mine)
            except ValueError:  # all cells failed
                chosen = math.inf
            return {f"score/{name}": value for name, value in tables.named(mine).items()}, chosen

        return score

    def preview(self, sampler: str, nfe: int, num_samples: int) -> Callable[[Path], None]:
        """A function that draws samples, each rank its share, and writes their picture."""
        evaluation, weights = self._config["evaluation"], first_weights(self._config, self._names)
        own = {"samplers": [sampler], "nfe": [nfe], "extra_nfe": {}, "num_samples": num_samples, "weights": weights}
        own |= _firsts(evaluation)
        frontier = frontier_of(
            {**evaluation, **own}, Guided(self._model, self._config), self._names, "callbacks.preview"
        )
        ((_, steps),) = frontier.cells

        drawing = Drawing(frontier.samplers[sampler], evaluation["seed"], steps, frontier.guidance[0])

        def write(path: Path) -> None:
            assert self._evaluator is not None
            model, check = self._model, self._evaluator.check
            try:
                with self._evaluator.applied(weights), model.evaluating():
                    samples = divided(lambda index: model.draw(index, drawing, check)[0], num_samples, model.device)
            except ValueError as error:  # a sample is not finite
                if is_leader():
                    console(stderr=True).print(f"preview: {error}")
                return
            if is_leader():
                labels = model.conditioner.described(torch.arange(num_samples, device=model.device))
                medium(model.codec.shape).write_grid(path, samples, labels=labels)

        return write


def first_weights(config: Mapping[str, Any], names: Names) -> str:
    """The first weights of the evaluation that need no snapshot, as there are few early in a training."""
    asked = config["evaluation"]["weights"]
    listed = asked if isinstance(asked, list) else [asked]
    first = next((one for one in listed if one is None or width_of(one) is None), None)
    return names.chosen(first, "evaluation.weights")


def _firsts(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The first guidance of an evaluation alone."""
    return {name: evaluation[name][:1] for name in ("guidance", "guiders")}
