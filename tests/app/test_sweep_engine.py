"""The engine of sweeps, with a script of a few lines in place of the program."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from denoiselab.app.sweeps.queue import Queue
from denoiselab.app.sweeps.records import Sweep, lives
from denoiselab.app.sweeps.search import search
from denoiselab.app.sweeps.starters import Processes
from denoiselab.app.sweeps.worker import work
from denoiselab.errors import BadInput, Failure
from denoiselab.training.interruption import Stopped

# A job: overrides `x=`, `sleep=`, `fail=`, and where it writes.
JOB = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
given = dict(word.split("=", 1) for word in sys.argv[1:])
place = pathlib.Path(given["paths.run_dir"])
with (place / "starts").open("a") as file:
    own = {"id": os.environ["DENOISELAB_RUN_ID"], "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    file.write(json.dumps(own) + "\\n")
time.sleep(float(os.environ.get("SLEEP", given.get("sleep", 0))))
if given.get("fail") == "1" and not (place.parent / "repaired").exists():
    sys.exit("x=1: is refused.")
content = json.loads((place / "result.json").read_text())
del content["checksum"]
x = float(given["x"])
(place / "result.json").write_text(json.dumps({**content, "status": "done", "value": (x - 3) ** 2}))
"""

# A worker: the engine over the sweep in a directory.
WORKER = """
import sys
from pathlib import Path
from test_sweep_engine import SPACE, go_on, search
go_on(Path(sys.argv[1]), int(sys.argv[2]), search(SPACE, "tpe", 12, 0) if sys.argv[3:] else None)
"""


SPACE = ["x=interval(0,6)", "y=choice(a,b)"]


def made(directory, jobs, *, swept=("x",), options=None):
    """A sweep whose jobs are planned."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "job.py").write_text(JOB)
    planned = dict(enumerate(map(tuple, jobs)))
    sweep = Sweep(directory, "id", "processes", swept, "score", ("train.py",), planned, options or {})
    sweep.write()
    return sweep


def starter(directory, slots):
    first = int(os.environ.get("FIRST_DEVICE", "0"))
    return Processes([sys.executable, "-S", str(directory / "job.py")], [str(first + n) for n in range(slots)])


def go_on(directory, slots, found=None, said=None):
    """What the program does, without its checks; returns the sweep."""
    with Queue(directory, found) as queue:
        sweep = Sweep.read(directory)
        queue.plan(sweep.planned)
        again = queue.again()
        say = [].append if said is None else said.append
        for job in again:
            say(f"again {job.number}: {job.error}")
        work(sweep, queue, starter(directory, slots), say, "stopped.")
    return Sweep.read(directory)


def starts(job):
    return [json.loads(line) for line in (job.directory / "starts").read_text().splitlines()]


def worker(directory, slots, *search):
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory), str(slots), *search], env={**os.environ, "PYTHONPATH": path}
    )


def kill_job(directory):
    """Kill the process of a job."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"paths.run_dir={directory}" in (process / "cmdline").read_text().split("\0"):
                os.kill(int(process.name), signal.SIGKILL)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def states(sweep):
    return [job.status for job in sweep.jobs]


def test_jobs_of_a_grid_two_at_a_time_and_one_that_fails_is_run_again(tmp_path):
    sweep = made(tmp_path, [[f"x={n}", f"fail={int(n == 1)}"] for n in range(4)])
    done = go_on(tmp_path, 2)
    assert states(done) == ["done", "failed", "done", "done"]
    assert [job.value for job in done.jobs] == [9, None, 1, 0]
    assert done.jobs[1].error == "exit code 1: x=1: is refused."
    assert {start["gpu"] for job in done.jobs for start in starts(job)} == {"0", "1"}
    assert [starts(job)[0]["id"] for job in done.jobs] == [f"id-{n}" for n in range(4)]
    assert [done.own(job) for job in done.jobs] == [[f"x={n}"] for n in range(4)]
    (tmp_path / "repaired").touch()
    said = []
    assert states(go_on(tmp_path, 2, said=said)) == ["done"] * 4
    assert "again 1: exit code 1: x=1: is refused." in said
    assert [len(starts(job)) for job in done.jobs] == [1, 2, 1, 1]
    assert sweep.planned == Sweep.read(tmp_path).planned


def test_a_job_whose_record_is_damaged_or_gone_is_run_again(tmp_path):
    made(tmp_path, [[f"x={n}"] for n in range(3)])
    go_on(tmp_path, 2)
    (tmp_path / "0" / "result.json").write_text('{"status": "done", "val')
    (tmp_path / "2" / "result.json").unlink()
    said = []
    done = go_on(tmp_path, 2, said=said)
    assert said[0] == "again 0: result.json: damaged, or not JSON."
    assert states(done) == ["done"] * 3
    assert [len(starts(job)) for job in done.jobs] == [2, 1, 2]


def test_a_journal_whose_writer_was_killed(tmp_path):
    """A half line is cut off, and what is written behind it is read; one in the middle is a sentence."""
    made(tmp_path, [["x=1"], ["x=2"]])
    with (tmp_path / "journal.log").open("a") as file:
        file.write('{"op_code": 0, "worker_id": "a", "study_na')
    assert states(go_on(tmp_path, 2)) == ["done"] * 2
    assert states(go_on(tmp_path, 2)) == ["done"] * 2
    journal = tmp_path / "journal.log"
    journal.write_text('{"op_code"\n' + journal.read_text())
    with pytest.raises(BadInput, match=r"journal\.log: damaged"):
        go_on(tmp_path, 2)
    journal.unlink()
    assert [len(starts(job)) for job in go_on(tmp_path, 2).jobs] == [1, 1]


def test_a_worker_that_was_killed_as_it_asked_for_a_job(tmp_path):
    made(tmp_path, [["x=1"]])
    with Queue(tmp_path) as queue:
        queue.study.ask()  # it has not said yet of which job the trial is
    assert states(go_on(tmp_path, 1)) == ["done"]


def test_a_killed_worker_and_its_jobs(tmp_path):
    """Its jobs live on, and count; one that was killed with it is tried again, finished ones never."""
    made(tmp_path, [[f"x={n}", "sleep=1"] for n in range(6)])
    process = worker(tmp_path, 2)
    until(lambda: (tmp_path / "3").is_dir() and (tmp_path / "3" / "starts").exists())
    process.kill()
    process.wait()
    assert lives(tmp_path / "3")
    running = [job for job in Sweep.read(tmp_path).jobs if job.status == "running"]
    assert len(running) == 2
    kill_job(tmp_path / "3")
    until(lambda: not lives(tmp_path / "3"))
    killed = Sweep.read(tmp_path).jobs[3]
    assert (killed.status, "killed" in killed.error) == ("stopped", True)
    done = go_on(tmp_path, 2)
    assert states(done) == ["done"] * 6
    assert [len(starts(job)) for job in done.jobs] == [1, 1, 1, 2, 1, 1]


def test_a_device_stays_with_the_job_of_a_killed_worker(tmp_path):
    """The job outlives its worker: what is run again waits for its device, and uses the other one meanwhile."""
    made(tmp_path, [["x=0"], ["x=1", "sleep=30"], ["x=2", "sleep=1"], *([f"x={n}"] for n in range(3, 6))])
    process = worker(tmp_path, 2)
    until(lambda: all((tmp_path / n / "starts").exists() for n in "12"))
    process.kill()
    process.wait()
    said = []

    class Say(list):
        def append(self, text):
            said.append(text)
            if text.startswith("job 4 started"):
                kill_job(tmp_path / "1")

    until(lambda: not lives(tmp_path / "2"))
    done = go_on(tmp_path, 2, said=Say())
    assert sum("1 slot(s) wait for devices" in text for text in said) == 1
    assert states(done) == ["done", "stopped", *["done"] * 4]
    assert [starts(job)[-1]["gpu"] for job in done.jobs[1:5]] == ["1", "0", "0", "0"]


def test_a_signal_goes_on_to_the_jobs(tmp_path):
    made(tmp_path, [[f"x={n}", "sleep=30"] for n in range(3)])
    said = []

    class Say(list):
        def append(self, text):
            super().append(text)
            if text.startswith("job 1 started"):
                until(lambda: (tmp_path / "1" / "starts").exists() and (tmp_path / "0" / "starts").exists())
                os.kill(os.getpid(), signal.SIGTERM)

    said = Say()
    before = time.monotonic()
    with pytest.raises(Stopped) as stop:
        go_on(tmp_path, 2, said=said)
    assert (stop.value.code, time.monotonic() - before < 20) == (143, True)
    assert states(Sweep.read(tmp_path)) == ["stopped", "stopped", "waiting"]


def test_a_job_that_cannot_be_started_leaves_the_others_to_their_end(tmp_path):
    class Refusing(Processes):
        def start(self, job, slot, environment):
            if job.number == 1:
                raise Failure("sbatch: error: too many jobs.")
            return super().start(job, slot, environment)

    sweep = made(tmp_path, [[f"x={n}", "sleep=0.3"] for n in range(3)])
    with Queue(tmp_path) as queue:
        queue.plan(sweep.planned)
        starter = Refusing([sys.executable, "-S", str(tmp_path / "job.py")], ["0", "1"])
        with pytest.raises(Failure, match="too many"):
            work(sweep, queue, starter, [].append, "stopped.")
    found = Sweep.read(tmp_path)
    assert states(found) == ["done", "failed", "waiting"]
    assert found.jobs[1].error == "sbatch: error: too many jobs."
    assert states(go_on(tmp_path, 2)) == ["done"] * 3


def test_a_job_that_another_worker_is_claiming_is_no_orphan(tmp_path, monkeypatch):
    first, second, found = Queue(tmp_path), Queue(tmp_path), []
    first.plan([0])
    look = threading.Thread(target=lambda: found.extend(second.orphans()))
    ask = first.study.ask

    def slowly(space):
        trial = ask(space)
        look.start()
        time.sleep(0.3)
        return trial

    monkeypatch.setattr(first.study, "ask", slowly)
    with first:
        assert first.claim().job == 0
        look.join()
    assert found == []


def test_two_workers_search_together(tmp_path, monkeypatch):
    """12 trials of TPE; a worker is killed with its job; resumed: 12 completed, the killed one was tried again."""
    made(tmp_path, [], options={"given": SPACE})
    monkeypatch.setenv("SLEEP", "60")
    first = worker(tmp_path, 1, "search")
    until(lambda: (tmp_path / "0" / "starts").exists())
    monkeypatch.delenv("SLEEP")
    monkeypatch.setenv("FIRST_DEVICE", "1")  # else it would wait for the first worker's job to end
    second = worker(tmp_path, 1, "search")
    until(lambda: (tmp_path / "3" / "starts").exists())
    first.kill()
    first.wait()
    kill_job(tmp_path / "0")
    assert second.wait(60) == 0
    assert sorted(states(Sweep.read(tmp_path))) == ["done"] * 11 + ["stopped"]
    said = []
    done = go_on(tmp_path, 1, search(SPACE, "tpe", 12, 0), said)
    assert states(done) == ["done"] * 12
    assert [job.number for job in done.jobs] == [*range(12)]
    assert [len(starts(job)) for job in done.jobs] == [2] + [1] * 11
    assert said[0].startswith("again 0: it ended without")
    assert len({job.overrides for job in done.jobs}) == 12
    with Queue(tmp_path) as queue:
        trials = queue.study.get_trials()
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert (len(finished), len(trials)) == (12, 13)
    assert sorted(trial.value for trial in finished) == pytest.approx(sorted(job.value for job in done.jobs))
    assert all(set(trial.params) == {"x", "y"} for trial in trials)


@pytest.mark.parametrize(
    ("text", "kind", "low", "high", "log", "step"),
    [
        ("x=interval(1,5)", "FloatDistribution", 1.0, 5.0, False, None),
        ("x=int(interval(1,5))", "IntDistribution", 1, 5, False, 1),
        ("x=tag(log,interval(1e-5,1e-2))", "FloatDistribution", 1e-5, 1e-2, True, None),
        ("x=range(1,8,2)", "IntDistribution", 1, 7, False, 2),
        ("x=range(0.5,2.0,0.5)", "FloatDistribution", 0.5, 1.5, False, 0.5),
        ("x=tag(log,range(1,9))", "IntDistribution", 1, 8, True, 1),
    ],
)
def test_the_space_of_a_search(text, kind, low, high, log, step):
    (distribution,) = search([text], "random", 3, 0).space.values()
    assert type(distribution).__name__ == kind
    assert (distribution.low, distribution.high, distribution.log, distribution.step) == (low, high, log, step)


def test_categories_and_corners_of_a_search():
    found = search(["a=1", "x=interval(0,1)", "y=p,[1,2],'b c'"], "tpe", 3, 0)
    assert found.overrides({"x": 0.5, "y": "p"}) == ("a=1", "x=0.5", "y=p")
    assert [job[1:] for job in found.corners] == [
        ("x=0.0", "y=p"), ("x=1.0", "y=p"), ("x=0.0", "y=[1,2]"), ("x=0.0", "y='b c'"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "trials", "sentence"),
    [
        (["x=interval(0,1)"], None, "sweep.trials: is not given"),
        (["x=1"], 3, "no option is swept"),
        (["x=interval(1,0)"], 3, "x=interval(1,0): "),
        (["x=tag(log,interval(0,1))"], 3, "x=tag(log,interval(0,1)): "),
    ],
)
def test_searches_that_are_refused(given, trials, sentence):
    with pytest.raises(BadInput, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        search(given, "tpe", trials, 0)
