"""What a job of a sweep with a pruner asks during its training: whether it is to go on."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiselab.app.sweeps.records import TRIAL, Sweep, job_of
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.nodes.instantiate import construct
from denoiselab.training.interruption import Interruption

if TYPE_CHECKING:  # imports Lightning
    from denoiselab.training.callbacks_evaluation import Scoring

Prepare = Callable[[Sequence[str], Sequence[int], int], "Scoring"]


def watched(prepare: Prepare, run: Path, interruption: Interruption, config: Mapping[str, Any]) -> Prepare:
    """What `callbacks.frontier` scores with, which asks the run's sweep after each look; as it is in other runs.

    All ranks learn the verdict; the run then saves and stops as at a signal, with an exit code of its own. Nothing is
    asked after the last look.

    Args:
        prepare: As of `FrontierScores`.
        run: Directory of the run.
        interruption: Of the run.
        config: Of the run.
    """
    sweep = None if TRIAL not in os.environ or job_of(run) is None else Sweep.read(run.absolute().parent)
    every = (config["callbacks"].get("frontier") or {}).get("every_images")
    if sweep is None or sweep.options.get("pruner") is None or every is None:
        return prepare
    verdict = functools.cache(lambda: _verdicts(sweep, int(os.environ[TRIAL])))

    def prepared(samplers: Sequence[str], nfe: Sequence[int], num_samples: int) -> Scoring:
        score = prepare(samplers, nfe, num_samples)

        def scored(images_seen: int) -> tuple[Mapping[str, float], float]:
            scores, chosen = score(images_seen)
            more = images_seen < config["max_images"]
            if more and on_first_rank(lambda: verdict()(images_seen // every, chosen)):
                interruption.pruned = chosen
            return scores, chosen

        return scored

    return prepared


def _verdicts(sweep: Sweep, trial_id: int) -> Callable[[int, float], bool]:
    """A function that reports the score of a look and says whether the job is to stop.

    Looks are counted from 1, as the images seen at a look depend on the batch size. One that was reported before, by a
    run that was stopped and continues, keeps its score.
    """
    import optuna  # takes two seconds
    from optuna.exceptions import UpdateFinishedTrialError

    from denoiselab.app.sweeps.queue import study_of

    pruner = construct(sweep.options["pruner"], "sweep.pruner")
    trial = optuna.trial.Trial(study_of(sweep.directory, pruner=pruner), trial_id)

    def prune(look: int, score: float) -> bool:
        try:
            trial.report(score, look)
        except UpdateFinishedTrialError:  # the sweep was killed and goes on, and has given this job another trial
            return False
        return bool(trial.should_prune())

    return prune
