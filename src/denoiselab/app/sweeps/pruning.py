"""What a job of a sweep with a pruner asks during its training: whether it is to go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from denoiselab.app.sweeps.records import Sweep, job_of
from denoiselab.nodes.instantiate import construct

TRIAL = "DENOISELAB_SWEEP_TRIAL"  # id of the trial in the sweep's journal


def verdicts(run: Path) -> Callable[[int, float], bool] | None:
    """A function that reports the score of a look and says whether the job is to stop; None where nothing is pruned.

    Looks are counted from 1, as the images seen at a look depend on the batch size. A look that was reported before,
    by a run that was stopped and continues, keeps its score.

    Args:
        run: Directory of the run.
    """
    if TRIAL not in os.environ or job_of(run) is None:
        return None
    sweep = Sweep.read(run.absolute().parent)
    node = sweep.options.get("pruner")
    if node is None:
        return None
    import optuna  # takes two seconds

    from denoiselab.app.sweeps.queue import study_of

    trial = optuna.trial.Trial(
        study_of(sweep.directory, pruner=construct(node, "sweep.pruner")), int(os.environ[TRIAL])
    )

    def prune(look: int, score: float) -> bool:
        if look not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(score, look)
        return bool(trial.should_prune())

    return prune
