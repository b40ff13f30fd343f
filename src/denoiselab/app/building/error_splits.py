"""The split of the errors of a frontier's cells, as it is configured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from denoiselab.app.building.evaluator import Evaluator, frontier_of
from denoiselab.app.building.guiders import Guided
from denoiselab.app.config.settings import Config, Evaluation
from denoiselab.errors import BadInput
from denoiselab.evaluation import Frontier, Record, Store, error_split
from denoiselab.training.ema import Names


def fine_of(evaluation: Config, frontier: Frontier, guided: Guided, names: Names, option: str) -> Frontier | None:
    """The fine runs with which the errors of a frontier's cells are split; None if they are not.

    Args:
        evaluation: The checked node of `frontier`.
        frontier: The cells.
        guided: The model to be scored.
        names: Of the model's weights.
        option: Name of the node, for messages.

    Raises:
        BadInput: If an option is refused, or no cell is one of an ODE solver.
    """
    if not evaluation["error_split"]:
        return None
    if evaluation.get("stop", "fixed") != "fixed":
        raise BadInput(f"{option}.error_split: it compares cells of as many samples; use {option}.stop=fixed.")
    asked = evaluation["fine_samplers"]
    own = {"samplers": asked, "nfe": [evaluation["fine_nfe"]], "extra_nfe": {}}
    try:
        fine = frontier_of({**evaluation, **own}, guided, names, option)
    except BadInput as error:
        said = re.sub(rf"{re.escape(option)}\.(nfe|samplers)", rf"{option}.fine_\1", str(error))
        raise BadInput(said) from None
    if len(fine.cells) != 2 or not all(one.follows_ode and not one.adaptive for one in fine.samplers.values()):
        raise BadInput(
            f"{option}.fine_samplers=[{', '.join(asked)}]: name two ODE samplers of fixed steps, such as [unipc,heun]."
        )
    if not any(sampler.follows_ode for sampler in frontier.samplers.values()):
        raise BadInput(
            f"{option}.error_split={evaluation['error_split']}: none of {option}.samplers solves the model's ODE; "
            f"add one that does, such as ddim, or set {option}.error_split=0."
        )
    return fine


def split_errors(
    evaluator: Evaluator,
    frontiers: tuple[Frontier, Frontier],
    evaluation: Evaluation,
    images_seen: int,
    records: Sequence[Record],
) -> dict[str, Any]:
    """The content of `error_split.json`: the errors of the solver and of the model in each cell.

    Args:
        evaluator: Scores the fine runs, as cells of a store of their own.
        frontiers: The cells, and their fine runs (`fine_of`).
        evaluation: Names metrics and reference.
        images_seen: In training.
        records: Of the cells.

    Raises:
        Stopped: If a signal came; what was drawn is stored.
        BadInput: If the extractor has no features.
    """
    frontier, fine = frontiers
    store = Store(evaluator.store.directory / error_split.FOLDER)
    fine_records = evaluator.score(fine, evaluation, images_seen, store=store)
    count = min(evaluation.error_split, frontier.num_samples)
    split = error_split.ErrorSplit(frontier, fine, count, evaluator.store)
    try:
        with evaluator.model.evaluating():
            return split.run(
                evaluator.subject, evaluator.measure(evaluation), records, fine_records, evaluator.control()
            )
    except ValueError as error:
        raise BadInput(f"evaluation.{error}") from None
