"""A job that its sweep prunes: it saves, ends with a code of its own, and is shown as pruned."""

import pytest

from denoiselab.app.sweeps.pruning import TRIAL, watched
from denoiselab.app.sweeps.queue import Queue
from denoiselab.app.sweeps.records import Job, Sweep
from denoiselab.app.sweeps.results import recorded
from denoiselab.training.interruption import Interruption, Pruned

CONFIG = {"callbacks": {"frontier": {"every_images": 20}}, "max_images": 100}


@pytest.fixture
def sweep(tmp_path):
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}
    jobs = {number: (f"x={number}",) for number in range(3)}
    made = Sweep(tmp_path, "id", "processes", ("x",), "score", ("train.py",), jobs, {"pruner": pruner})
    made.write()
    return made


def looks(sweep, claim, scores, monkeypatch):
    """The callback's scoring at looks of 24, 48, ... images, as batches of 8 cross multiples of 20 late."""
    monkeypatch.setenv(TRIAL, str(claim.id))
    stop = Interruption()
    values = iter(scores)
    scoring = watched(lambda *given: lambda seen: ({}, next(values)), sweep.directory / str(claim.job), stop, CONFIG)
    score = scoring([], [], 8)
    for look in range(1, 6):
        score(24 * look if look < 5 else 100)
        if stop.asked:
            break
    return look, stop


def test_the_worse_of_two_jobs_is_pruned(sweep, monkeypatch):
    with Queue(sweep.directory) as queue:
        queue.plan(range(2))
        good, bad = queue.claim(), queue.claim()
        look, stop = looks(sweep, good, [5, 4, 3, 2, 1], monkeypatch)
        assert (look, stop.asked) == (5, False)
        done = Job(0, sweep.directory / "0", status="done", value=1.0)
        done.directory.mkdir()
        done.write()
        queue.settle(good.trial, done)
        look, stop = looks(sweep, bad, [4.9, 6, 3, 2, 1], monkeypatch)
        assert (look, stop.pruned) == (2, 6)  # 4.9, its best score so far, is more than the median of the others, 4

        with pytest.raises(Pruned) as pruned, recorded(sweep.directory / "1", []):
            stop.stop()
        assert pruned.value.code == 76
        found = Sweep.read(sweep.directory).jobs[1]
        assert (found.status, found.value, found.finished) == ("pruned", 6, True)
        queue.settle(bad.trial, found)
        states = [trial.state.name for trial in queue.study.get_trials()]
        assert states == ["COMPLETE", "PRUNED"]
        assert queue.study.get_trials()[1].intermediate_values == {1: 4.9, 2: 6}
        assert queue.again() == []


def test_a_job_that_outlives_its_sweep_goes_on(sweep, monkeypatch):
    with Queue(sweep.directory) as queue:
        queue.plan([0])
        claim = queue.claim()
        queue.settle(claim.trial, Job(0, sweep.directory / "0", status="stopped"))  # and runs as another trial
        look, stop = looks(sweep, claim, [5, 4, 3, 2, 1], monkeypatch)
        assert (look, stop.asked) == (5, False)


def test_other_runs_are_not_asked(sweep, tmp_path, monkeypatch):
    def prepare(*given):
        raise AssertionError

    assert watched(prepare, sweep.directory / "0", Interruption(), CONFIG) is prepare
    monkeypatch.setenv(TRIAL, "0")
    assert watched(prepare, tmp_path / "elsewhere", Interruption(), CONFIG) is prepare
