import csv
import importlib
import json
import math
import sys
from contextlib import nullcontext
from types import MappingProxyType, SimpleNamespace

import pytest
import torch

from denoiselab import code_digest, parameterizations, progress
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import Control, Frontier, Measure, Score, Store, Subject, cell, store
from denoiselab.evaluation.metrics.frechet import frechet_distance
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.records import measured
from denoiselab.evaluation.report import tables
from denoiselab.guidance import Guidance
from denoiselab.model import Model
from denoiselab.samplers import DDIM, Ancestral, DPMSolverPP, RhoRK
from denoiselab.samplers.spacing import Karras, UniformLogSNR, UniformTime
from denoiselab.samplers.tableaus import heun
from denoiselab.schedules import Flow, VPLinear

SHAPE = (1, 4, 4)


class Shrink(torch.nn.Module):
    """An eps network that is exact for data N(0, 1)."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, label, cond=None):
        sigma = VPLinear().sigma(label / 1000).reshape(-1, 1, 1, 1)
        return self.one * sigma * x


class Pixels:
    name, metric, fingerprint = "pixels", "fd_pixels", "0" * 64
    lower_is_better = {"fd_pixels": True, "n": False}  # noqa: RUF012
    split, facts, description = "train", {}, ""

    def statistics(self, start=0, strata=1):
        return GaussianStatistics(16, lambda images: images.float().flatten(1) / 255)

    def scores(self, statistics, reference):
        return {self.metric: Score(frechet_distance(statistics, reference), 0.5), "n": Score(float(statistics.n))}


def frontier(batch_size=8, **options):
    given = {
        "samplers": {"ddim": DDIM(UniformTime(), 1), "ancestral": Ancestral(UniformTime(), 1)},
        "nfe": [2, 4],
        "extra_nfe": {},
        "num_samples": 21,
        "seed": 0,
        "weights": ["raw"],
        **options,
    }
    given.setdefault("settings", {name: {} for name in given["samplers"]})
    return Frontier(batch_size=batch_size, schedule=VPLinear(), **given)


def score(
    out,
    directory,
    check=lambda step: None,
    protocol=None,
    denoiser=None,
    scorer=None,
    codec=None,
    steer=None,
    learn=lambda sampler: {},
    notes=MappingProxyType({}),
    **options,
):
    denoiser = denoiser or Denoiser(Shrink(), VPLinear(), parameterizations.eps, ScaledTime())
    reference = GaussianStatistics(16)
    reference.update(torch.rand(50, 16, generator=torch.Generator().manual_seed(0)))
    model = Model(denoiser, Unconditional(), codec or Identity(SHAPE))
    subject = Subject(model, lambda name: nullcontext(), steer, learn)
    protocol = {"data": "toy", "images_seen": 0, "split": "train", **(protocol or {})}
    measure = Measure(scorer or Pixels(), reference)
    return out.run(subject, measure, Store(directory), protocol, notes, Control(check, **options))


def without_marks(records):
    return [{key: value for key, value in record.items() if key != "pareto"} for record in records]


def test_scores_do_not_depend_on_the_batch_size(tmp_path):
    scores = [[r["score"] for r in score(frontier(size), tmp_path / str(size))] for size in (7, 8, 64)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    assert scores[0] == pytest.approx(scores[2], rel=1e-6)


def test_a_frontier_calls_the_network_for_its_cells_and_each_sample_is_measured_once(tmp_path):
    """The part of its cost that a busy machine does not change; the seconds are a benchmark."""
    called, measured = [], []

    class Counted(Shrink):
        def forward(self, x, label, cond=None):
            called.append(len(x))
            return super().forward(x, label)

    class Counting(Pixels):
        def statistics(self, start=0, strata=1):
            return GaussianStatistics(16, lambda x: (measured.append(len(x)), x.float().flatten(1))[1])

    denoiser = Denoiser(Counted(), VPLinear(), parameterizations.eps, ScaledTime())
    records = score(frontier(), tmp_path, denoiser=denoiser, scorer=Counting())
    assert (called[:3], measured[:2]) == ([8, 5, 1], [8, 5])  # outside the clock, once; one sample for its operations
    assert sum(called[3:]) == sum(record["network_evaluations"] * record["n"] for record in records) == 21 * (2 + 4) * 2
    assert len(called[3:]) == 3 * (2 + 4) * 2  # batches of 8 of 21 samples
    assert sum(measured[2:]) == 21 * len(records)
    score(frontier(), tmp_path, denoiser=denoiser, scorer=Counting())
    assert sum(measured[2:]) == 21 * len(records)  # nothing is scored twice


def test_no_cell_pays_for_the_first_calls_of_the_process(tmp_path, monkeypatch):
    """A clock that calls alone move: the first of each batch size takes 100 seconds, and all others 1."""
    seen, clock = set(), [0]

    def spend(what, size):
        clock[0] += 1 if (what, size) in seen else 100
        seen.add((what, size))

    class Slow(Shrink):
        conditioning = frozenset({"class_label"})

        def forward(self, x, label, cond=None):
            spend("network", len(x))
            return super().forward(x, label)

    class Slowly(Pixels):
        def statistics(self, start=0, strata=1):
            return GaussianStatistics(16, lambda x: (spend("extractor", len(x)), x.float().flatten(1))[1])

    monkeypatch.setattr(cell, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    denoiser = Denoiser(Slow(), VPLinear(), parameterizations.eps, ScaledTime())
    reference = GaussianStatistics(16)
    reference.update(torch.rand(50, 16, generator=torch.Generator().manual_seed(0)))
    subject = Subject(Model(denoiser, ClassLabel(3), Identity(SHAPE)), lambda name: nullcontext())
    cells = frontier(guidance=[Guidance(), Guidance(3.0)])
    records = cells.run(subject, Measure(Slowly(), reference), Store(tmp_path), {"data": "toy"})
    assert len(records) == 8
    for record in records:
        assert record["seconds"] == pytest.approx(3 * (record["nfe"] + 1))  # batches, each measured once
        assert record["seconds_per_1k_images"] == pytest.approx(record["seconds"] / 21 * 1000, abs=1e-3)


def test_the_bar_moves_with_every_step_of_a_batch_and_ends_full(tmp_path, monkeypatch):
    """One batch of 21 samples at 40 calls; then a cell that fails in its first batch."""
    seen = []

    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, more):
            self.n += more
            seen.append(self.n)

        def set_postfix(self, **facts):
            pass

    class Breaks(DDIM):
        def __call__(self, *arguments, **options):
            return super().__call__(*arguments, **options) * math.nan

    monkeypatch.setattr(progress, "bar", lambda what, total, **options: Bar())
    score(frontier(64, nfe=[40], samplers={"ddim": DDIM(UniformTime(), 1)}), tmp_path / "a")
    assert seen == sorted(seen)
    assert {21 * step for step in range(1, 41)} == {*seen} - {0}
    seen.clear()
    samplers = {"ddim": DDIM(UniformTime(), 1), "broken": Breaks(UniformTime(), 1)}
    score(frontier(nfe=[2, 4], samplers=samplers), tmp_path / "b")
    assert seen[-1] == 21 * 2 * (2 + 4)


def test_a_record_holds_every_metric_with_its_standard_error(tmp_path):
    for record in score(frontier(), tmp_path):
        assert record["scores"] == {
            "fd_pixels": {"value": record["score"], "standard_error": 0.5, "lower_is_better": True},
            "n": {"value": 21.0, "standard_error": None, "lower_is_better": False},
        }
        assert record["standard_error"] == 0.5


def test_a_stopped_frontier_continues_with_the_next_cell(tmp_path):
    whole = score(frontier(), tmp_path / "whole")
    assert [(r["sampler"], r["nfe"], r["n"]) for r in whole] == [
        ("ddim", 2, 21), ("ddim", 4, 21), ("ancestral", 2, 21), ("ancestral", 4, 21),
    ]  # fmt: skip
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(frontier(), tmp_path / "cut", stop)
    stored = json.loads((tmp_path / "cut" / "frontier.json").read_text())
    assert 0 < len(stored) < 4
    again = score(frontier(), tmp_path / "cut")
    # Seconds included: not computed again.
    assert without_marks(again[: len(stored)]) == without_marks(stored)
    assert [r["score"] for r in again] == [r["score"] for r in whole]
    assert [r["cell"] for r in again] == [r["cell"] for r in whole]
    # Another protocol: every cell is computed again.
    other = score(frontier(), tmp_path / "cut", protocol={"images_seen": 1})
    assert not {r["cell"] for r in other} & {r["cell"] for r in again}


def test_a_budget_that_cannot_be_spent_exactly_is_told():
    out = frontier(samplers={"heun": RhoRK(UniformTime(), 1, heun())}, nfe=[4, 5, 6, 7])
    assert out.cells == [("heun", 2), ("heun", 3), ("heun", 4)]
    assert out.inexact == [("heun", 4, 3), ("heun", 6, 5)]


def test_budgets_of_which_one_call_does_all_are_told():
    rules = {"ddim@karras": DDIM(Karras(), 1), "heun": RhoRK(Karras(), 1, heun()), "ddim": DDIM(UniformTime(), 1)}
    assert frontier(samplers=rules, nfe=[1, 2, 3]).as_one == [("ddim@karras", 2)]


def test_other_budgets_keep_the_cells_that_are_there(tmp_path):
    first = score(frontier(nfe=[2]), tmp_path)
    second = score(frontier(nfe=[3]), tmp_path)
    third = score(frontier(nfe=[2, 3]), tmp_path)
    assert {r["cell"] for r in third} == {r["cell"] for r in first + second}
    for record in without_marks(third):
        assert record in without_marks(first + second)  # seconds included: nothing was computed again
    assert len(json.loads((tmp_path / "frontier.json").read_text())) == 4


def test_scores_that_people_read_keep_two_digits():
    read = {12.344: "12.34", 0.1: "0.10", 0.0123: "0.0123", 3.4e-5: "3.4e-05", -0.25: "-0.25", -4.2e-4: "-0.00042"}
    read |= {0.0: "0.0000"}
    assert {score: tables.digits(score) for score in read} == read


def test_a_schedule_that_starts_at_pure_noise(tmp_path):
    """The first step is one call there, whatever the sampler: NFE is what was counted, and pictures are found."""
    denoiser = Denoiser(Shrink(), Flow(), parameterizations.velocity, ScaledTime())
    samplers = {"heun": RhoRK(Karras(), 1, heun()), "dpmpp_2m": DPMSolverPP(UniformLogSNR(), 1)}
    first = score(frontier(samplers=samplers, nfe=[1, 5]), tmp_path, denoiser=denoiser)
    assert [(r["sampler"], r["nfe"]) for r in first] == [("heun", 1), ("heun", 4), ("dpmpp_2m", 1), ("dpmpp_2m", 5)]
    assert score(frontier(samplers=samplers, nfe=[1, 5]), tmp_path, denoiser=denoiser) == first
    assert all(Store(tmp_path).picture(record).is_file() for record in first)


def test_cells_of_a_sampler_that_has_changed_leave_its_line(tmp_path):
    score(frontier(nfe=[2, 3]), tmp_path)
    changed = frontier(nfe=[2], settings={"ddim": {"eta": 0.5}, "ancestral": {}})
    told = [(r["sampler"], r["nfe"]) for r in score(changed, tmp_path)]
    assert sorted(told) == [("ancestral", 2), ("ancestral", 3), ("ddim", 2)]


def test_cells_of_samplers_with_infinite_options_are_stored_and_found(tmp_path):
    again = {"settings": {"ddim": {"spacing": {"first_lam": -math.inf}}, "ancestral": {"values": [math.inf]}}}
    first = score(frontier(nfe=[2], **again), tmp_path)
    assert first[1]["settings"] == {"values": ["inf"], "steps": 2}
    assert score(frontier(nfe=[2], **again), tmp_path) == first


def test_cells_of_another_model_in_the_same_folder_are_neither_taken_nor_shown(tmp_path):
    """Of the same images seen and the same name of weights: two seeds of one training, or another codec."""
    score(frontier(nfe=[2, 3]), tmp_path, protocol={"model_sha256": "a"})
    other = Shrink()
    other.one.data.fill_(0.9)
    other = Denoiser(other, VPLinear(), parameterizations.eps, ScaledTime())
    alone = frontier(nfe=[2], samplers={"ddim": DDIM(UniformTime(), 1)})
    for options in ({"protocol": {"model_sha256": "b"}}, {"protocol": {"model_sha256": "a"}, "denoiser": other}):
        assert [(r["sampler"], r["nfe"]) for r in score(alone, tmp_path, **options)] == [("ddim", 2)]


SAMPLER = """
from denoiselab.model import Model
from denoiselab.samplers import DDIM

class Mine(DDIM):
    def run(self, *arguments, **options):
        return {factor} * super().run(*arguments, **options)
"""


def coded(tmp_path, monkeypatch, factor):
    """A frontier of DDIM and of a sampler of a user's own module, whose file was just written."""
    (tmp_path / "own_sampler.py").write_text(SAMPLER.format(factor=factor))
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (code_digest._is_ours, code_digest._tree, code_digest._parsed, code_digest._origin):
        cached.cache_clear()
    sys.modules.pop("own_sampler", None)
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    mine = importlib.import_module("own_sampler").Mine
    samplers = {"ddim": DDIM(UniformTime(), 1), "mine": mine(UniformTime(), 1)}

    def made(nfe, **options):
        return frontier(nfe=nfe, samplers=samplers, settings={"ddim": {}, "mine": {}}, **options)

    return made


def test_cells_of_other_code_are_kept_marked_and_scored_again_on_request(tmp_path, monkeypatch):
    """A sampler's code is changed, and a budget is added to a finished frontier."""
    run = tmp_path / "run"
    old = score(coded(tmp_path, monkeypatch, 1.0)([2, 4]), run)
    assert not any(record["other_code"] for record in old)
    made = coded(tmp_path, monkeypatch, 0.9)
    records = score(made([2, 3, 4]), run)
    told = {(r["sampler"], r["nfe"]): (r["other_code"], r["score"]) for r in records}
    before = {(r["sampler"], r["nfe"]): r["score"] for r in old}
    assert told["mine", 2] == (True, before["mine", 2])  # kept
    assert told["mine", 4] == (True, before["mine", 4])
    assert told["mine", 3][0] is False
    assert not any(told["ddim", nfe][0] for nfe in (2, 3, 4))  # its code is the same
    # The old and the new numbers have lines, sheets and keys of their own.
    name = f"mine code={next(r for r in old if r['sampler'] == 'mine')['code_sha256'][:8]}"
    assert [*tables.by_series(records)] == ["ddim", name, "mine"]
    assert len(tables.table(records).splitlines()) == 5
    with (run / "frontier.csv").open() as file:
        rows = {(row["sampler"], row["nfe"]): row["other_code"] for row in csv.DictReader(file)}
    assert (rows["mine", "2"], rows["mine", "3"], rows["ddim", "2"]) == ("True", "False", "False")
    # On request they are scored again, and the former ones stay in the files.
    again = score(made([2, 3, 4], rescore=True), run)
    assert {(r["sampler"], r["nfe"]): r["other_code"] for r in again} == dict.fromkeys(told, False)
    assert next(r for r in again if (r["sampler"], r["nfe"]) == ("mine", 2))["score"] != before["mine", 2]
    stored = json.loads((run / "frontier.json").read_text())
    assert sorted(r["nfe"] for r in stored if r["sampler"] == "mine" and r["other_code"]) == [2, 4]
    assert len(stored) == 8
    assert [r["cell"] for r in score(made([2, 3, 4]), run)] == [r["cell"] for r in again]
    # The former code again: its cells are those of today, and the others are marked.
    back = score(coded(tmp_path, monkeypatch, 1.0)([2, 4]), run)
    assert {(r["sampler"], r["nfe"]) for r in back if r["other_code"]} == {("mine", 3)}


def test_cells_of_a_release_without_digests_of_code_are_kept_and_marked(tmp_path):
    """Version 0.1 named its cells by their protocol with its own version in it."""
    versions = {"torch": "2.14.1"}
    first = score(frontier(nfe=[2]), tmp_path, protocol={"versions": versions})
    path, released = tmp_path / "frontier.json", []
    for record in json.loads(path.read_text()):
        for name in ("code_sha256", "code_modules", "protocol_sha256", "other_code", "scored"):
            del record[name]
        record["versions"] = {"denoiselab": "0.1.0", **versions}
        protocol = ("data", "images_seen", "split", "versions", "metric", "n", "seed", "extractor", "extractor_sha256",
                    "reference_n", "reference_sha256", "dtype", "weights", "weights_sha256", "guidance", "sampler",
                    "settings")  # fmt: skip
        former = Store(tmp_path).picture(record)
        record["cell"] = store.key_of({name: record[name] for name in protocol})
        former.rename(Store(tmp_path).picture(record))
        released.append(record)
    path.write_text(json.dumps(released))
    records = score(frontier(nfe=[2, 3]), tmp_path, protocol={"versions": versions})
    kept = [record for record in records if record["nfe"] == 2]
    assert [(r["score"], r["other_code"]) for r in kept] == [(r["score"], True) for r in first]
    assert not any(r["other_code"] for r in records if r["nfe"] == 3)
    assert [*tables.by_series(kept)] == ["ddim", "ancestral"]
    assert {*tables.by_series(records)} == {"ddim", "ddim code=0.1.0", "ancestral", "ancestral code=0.1.0"}
    assert len({measured(r) for r in records}) == 1  # they stand on one page, in one measure
    assert len(json.loads(path.read_text())) == 4
