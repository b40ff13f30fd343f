"""What a cell records: failures, costs, marks; and that files hold under kills, full disks and other processes."""

import csv
import json
import math
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from test_frontier import SHAPE, Pixels, Shrink, frontier, score

from denoiselab import parameterizations
from denoiselab.app.building.classifier_guidance import Steering
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import Measure, OptimizedMetric, Score, Store, Subject
from denoiselab.evaluation.memory import PeakMemory
from denoiselab.evaluation.metrics.feature_file import FeatureFile
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.verdicts.frontiers import mark_pareto
from denoiselab.guidance import Guidance
from denoiselab.model import Model
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import VPLinear


def test_a_cell_with_a_broken_sample_fails_and_the_rest_goes_on(tmp_path):
    class Diverges(DDIM):
        def run(self, denoise, schedule, levels, x, noise, *, on_step=None):
            out = super().run(denoise, schedule, levels, x, noise, on_step=on_step)
            out[noise.index == 13] = math.nan if len(levels) == 5 else 0.0
            return out

    samplers = {"fine": DDIM(UniformTime(), 1), "broken": Diverges(UniformTime(), 1)}
    records = score(frontier(samplers=samplers), tmp_path)
    assert [(r["sampler"], r["nfe"], r["error"]) for r in records] == [
        ("fine", 2, None), ("fine", 4, None), ("broken", 2, None),
        ("broken", 4, "sample 13 of Diverges at 4 NFE is not finite."),
    ]  # fmt: skip
    assert (records[3]["score"], records[3]["scores"], records[3]["pareto"]) == (None, {}, False)
    assert [r["seconds_per_1k_images"] is None for r in records] == [False, False, False, True]  # not all were drawn
    stored = json.loads((tmp_path / "frontier.json").read_text())
    assert stored == records
    assert score(frontier(samplers=samplers), tmp_path) == records  # seconds included: a failure is not tried again
    with (tmp_path / "frontier.csv").open() as file:
        assert [row["error"] for row in csv.DictReader(file)][2:] == ["", records[3]["error"]]


def test_features_that_are_not_finite_name_their_sample(tmp_path):
    class Picky(Pixels):
        def statistics(self, start=0, strata=1):
            def features(images):
                out = images.float().flatten(1) / 255
                out[images.flatten(1)[:, 0] == self.marked] = math.inf
                return out

            return GaussianStatistics(16, features)

    samples = []

    class Keep(Pixels):
        def statistics(self, start=0, strata=1):
            return GaussianStatistics(16, lambda images: (samples.append(images), images.float().flatten(1))[1])

    score(frontier(nfe=[2], samplers={"ddim": DDIM(UniformTime(), 1)}), tmp_path / "look", scorer=Keep())
    corner = torch.cat(samples[2:])[:, 0, 0, 0]  # without the warm-up
    scorer = Picky()
    scorer.marked = int(corner[17])
    first = int((corner == scorer.marked).nonzero()[0])
    (record,) = score(frontier(nfe=[2], samplers={"ddim": DDIM(UniformTime(), 1)}), tmp_path, scorer=scorer)
    assert record["error"].startswith(f"sample {first}: ")
    assert "not finite" in record["error"]


def test_a_measure_that_refuses_or_has_no_value_fails_the_cell(tmp_path):
    class Refuses(Pixels):
        def scores(self, statistics, reference):
            raise ValueError("kid: a block holds 100 samples, and there are 21.")

    class Undefined(Pixels):
        def scores(self, statistics, reference):
            return {self.metric: Score(math.nan)}

    assert {r["error"] for r in score(frontier(), tmp_path / "a", scorer=Refuses())} == {
        "kid: a block holds 100 samples, and there are 21."
    }
    assert {r["error"] for r in score(frontier(), tmp_path / "b", scorer=Undefined())} == {"fd_pixels is nan."}


def test_weights_and_guidance_are_axes_and_guidance_costs_two_evaluations(tmp_path):
    class Labelled(Shrink):
        conditioning = frozenset({"class_label"})

        def forward(self, x, label, cond=None):
            shift = (cond.class_label < 3).float().reshape(-1, 1, 1, 1)
            return super().forward(x, label, None) * (1 + 0.1 * shift)

    network = Labelled()
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())

    class With:
        def __init__(self, name):
            self.value = {"raw": 1.0, "ema": 0.9}[name]

        def __enter__(self):
            network.one.data.fill_(self.value)

        def __exit__(self, *error):
            network.one.data.fill_(1.0)

    out = frontier(
        samplers={"ddim": DDIM(UniformTime(), 1)}, weights=["raw", "ema"], guidance=[Guidance(), Guidance(3.0)]
    )
    reference = GaussianStatistics(16)
    reference.update(torch.rand(50, 16, generator=torch.Generator().manual_seed(0)))
    subject = Subject(Model(denoiser, ClassLabel(3), Identity(SHAPE)), With)
    records = out.run(subject, Measure(Pixels(), reference), Store(tmp_path), {"data": "toy"})
    told = [(r["weights"], r["guidance"], r["nfe"], r["network_evaluations"]) for r in records]
    assert told == [(w, g, n, n * (1 if g == 1 else 2)) for w in ("raw", "ema") for g in (1.0, 3.0) for n in (2, 4)]
    assert len({r["score"] for r in records}) == 8
    assert len({r["weights_sha256"] for r in records}) == 2


def test_pareto_marks_follow_the_definition():
    """With errors far below the differences; cells of equal scores are all marked."""

    def record(score, cost, **other):
        keys = {"data": "d", "images_seen": 1, "metric": "m", "n": 2, "seed": 0, "standard_error": 1e-6, **other}
        return {"score": score, "network_evaluations": cost, **keys}

    generator = torch.Generator().manual_seed(1)
    draws = torch.randint(1, 9, (40, 2), generator=generator).tolist()
    records = [record(float(s), c) for s, c in draws] + [record(None, 1), record(9.0, 8, n=3), record(9.0, 8, data="e")]
    mark_pareto(records)
    for one in records[:40]:
        better = [
            r for r in records[:40]
            if r["score"] < one["score"] and r["network_evaluations"] <= one["network_evaluations"]
        ]  # fmt: skip
        assert one["pareto"] == (not better)
    assert [r["pareto"] for r in records[40:]] == [False, True, True]


def test_where_more_is_better_the_largest_is_the_best():
    records = [
        {
            "sampler": "s", "nfe": nfe, "network_evaluations": nfe, "score": score, "metric": "is", "n": 9,
            "scores": {"is": {"value": score, "standard_error": 0.1, "lower_is_better": False}},
        }
        for nfe, score in ((5, 3.0), (10, 2.0), (20, 4.0))
    ]  # fmt: skip
    mark_pareto(records)
    assert [record["pareto"] for record in records] == [True, False, True]
    assert OptimizedMetric("frontier/best")(records) == -4.0
    assert OptimizedMetric("frontier/best@10")(records) == -3.0


def test_processes_that_add_to_one_file_lose_nothing(tmp_path):
    def add(number):
        Store(tmp_path / "shared").add([{**first, "cell": f"{number:064d}", "score": 1.0 + number}])

    first = score(frontier(nfe=[2]), tmp_path / "one")[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(Store(tmp_path / "shared").read()) == 40


def test_a_full_disk_keeps_the_cells_before_and_says_so(tmp_path, monkeypatch):
    before = score(frontier(nfe=[2]), tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"frontier.json: a cell cannot be written \(No space left on device\)"):
            score(frontier(nfe=[4]), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    after = score(frontier(nfe=[2, 4]), tmp_path)
    assert [r["seconds"] for r in after if r["nfe"] == 2] == [r["seconds"] for r in before]


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "frontier.json").write_text('[{"cell"')
    with pytest.raises(ValueError, match=r"frontier.json: damaged; delete it"):
        score(frontier(), tmp_path)


def test_peak_memory_is_that_of_the_work():
    measure = PeakMemory(torch.device("cpu"))
    base = measure.megabytes()
    with mmap.mmap(-1, 120_000_000) as memory:  # an allocator may give memory that the process has already
        memory[:: mmap.PAGESIZE] = bytes(-(-len(memory) // mmap.PAGESIZE))
    grown = measure.megabytes()
    again = PeakMemory(torch.device("cpu")).megabytes()
    assert grown - base > 100
    assert again < grown - 60


def test_optimized_metric():
    out = frontier(nfe=[2, 4])
    records = [
        {"sampler": s, "nfe": n, "score": v, "error": None}
        for s, n, v in (("ddim", 2, 3.0), ("ddim", 4, 1.0), ("ancestral", 2, 2.0), ("ancestral", 4, 9.0))
    ]
    for name, value in (("best", 1.0), ("best@2", 2.0), ("best@3", 2.0), ("ddim@2", 3.0), ("ancestral", 2.0)):
        metric = OptimizedMetric(f"frontier/{name}")
        metric.check(out)
        assert metric(records) == value
    for name, says in (
        ("best", "allowed: frontier/best"),
        ("frontier/best@1", "no cell"),
        ("frontier/heun", "no cell"),
    ):
        with pytest.raises(ValueError, match=says):
            OptimizedMetric(name).check(out)
    failed = [{"sampler": "ddim", "nfe": 2, "score": None, "error": "sample 3 is not finite."}]
    with pytest.raises(ValueError, match="sample 3 is not finite"):
        OptimizedMetric("frontier/best")(failed)


class Convolves(Shrink):
    """Not elementwise: how many samples a call has may change the last bits."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(1, 1, 3, padding=1)
        for i, parameter in enumerate(self.inner.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) / 4

    def forward(self, x, label, cond=None):
        return super().forward(x, label) + self.inner(x).tanh()


class Diverges(DDIM):
    broken = -1

    def run(self, denoise, schedule, levels, x, noise, *, on_step=None):
        out = super().run(denoise, schedule, levels, x, noise, on_step=on_step)
        out[noise.index == self.broken] = math.nan
        return out


def score_keeping_bytes(batch_size, directory, samplers):
    """The records, and every sample of this rank as bytes, by the first cell."""
    kept = []  # those of the warm-up come first

    class Keep(Pixels):
        def statistics(self, start=0, strata=1):
            images = []
            kept.append(images)
            return GaussianStatistics(16, lambda x: (images.append(x), x.float().flatten(1) / 255)[1], start=start)

    denoiser = Denoiser(Convolves(), VPLinear(), parameterizations.eps, ScaledTime())
    options = {"samplers": samplers, "nfe": [3]}
    return score(frontier(batch_size, **options), directory, denoiser=denoiser, scorer=Keep()), torch.cat(kept[1])


BROKEN = {3: 1, 2: 20}  # number of ranks to the sample that fails


def _rank(rank, path):
    for world, broken in BROKEN.items():
        if rank == world:
            return
        dist.init_process_group("gloo", init_method=f"file://{path}/store{world}", rank=rank, world_size=world)
        samplers = {"ddim": DDIM(UniformTime(), 1), "broken": Diverges(UniformTime(), 1)}
        samplers["broken"].broken = broken
        _, images = score_keeping_bytes(16, path / str(world), samplers)
        torch.save(images, path / f"{world}-{rank}.pt")
        dist.destroy_process_group()


@pytest.mark.slow
def test_samples_scores_and_failures_do_not_depend_on_batches_and_ranks(tmp_path):
    """On the CPU, in single precision: a byte may differ by one level where the network's last bits do."""
    samplers = {"ddim": DDIM(UniformTime(), 1)}
    (alone,), images = score_keeping_bytes(7, tmp_path / "7", samplers)
    others = {size: score_keeping_bytes(size, tmp_path / str(size), samplers) for size in (16, 64)}
    found = [(records[0], bytes_) for records, bytes_ in others.values()]
    on_ranks(_rank, (tmp_path,), 3)
    for world, broken in BROKEN.items():
        done, failed = json.loads((tmp_path / str(world) / "frontier.json").read_text())
        assert f"sample {broken} of" in failed["error"]
        assert done["devices"] == world
        found.append((done, torch.cat([torch.load(tmp_path / f"{world}-{rank}.pt") for rank in range(world)])))
    assert len(images.unique()) > 30
    for record, bytes_ in found:
        assert record["score"] == pytest.approx(alone["score"], rel=1e-6)
        assert (record["cell"], record["n"], record["nfe"]) == (alone["cell"], 21, 3)
        difference = (bytes_.int() - images.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01


def test_nothing_is_done_for_a_network_that_always_diverges(tmp_path, monkeypatch):
    monkeypatch.setattr(Shrink, "forward", lambda self, x, label, cond=None: x * math.nan)
    records = score(frontier(), tmp_path)
    assert records[0]["error"] == "sample 0 of DDIM at 2 NFE is not finite."
    assert all(r["score"] is None for r in records)


def test_a_sample_that_a_codec_breaks_fails_the_cell(tmp_path):
    """It would be stored as a black image."""

    class Overflows(Identity):
        def decode(self, latents):
            out = latents.clone()
            out[-1, 0, 0, 0] = math.nan
            return out

    record = score(frontier(nfe=[2]), tmp_path, codec=Overflows(SHAPE))[0]
    assert record["error"] == "sample 7 of DDIM at 2 NFE is not finite once Overflows has decoded it."


def test_an_unconditional_model_steered_by_a_classifier_has_its_classes_as_strata(tmp_path):
    asked = []

    class Asked(Pixels):
        def statistics(self, start=0, strata=1):
            asked.append(strata)
            return super().statistics()

    classifier = SimpleNamespace(num_classes=7, shape=SHAPE)
    steer = Steering(classifier, Unconditional(), 1.0, {})
    assert steer.strata == 7
    assert Steering(classifier, ClassLabel(7, classes=[1, 2]), 1.0, {}).strata == 2

    class Passes:
        strata, facts = steer.strata, {}

        def __call__(self, denoise, index, tally):
            return denoise

    score(frontier(nfe=[2]), tmp_path, scorer=Asked(), steer=Passes())
    assert asked == [7, 7, 7]  # of the warm-up, and of two cells


class Spools(Pixels):
    """Keeps whole features, on a rank whose disk is full after `room` samples."""

    room = 0

    def statistics(self, start=0, strata=1):
        return _Spool(self.room)


class _Spool(FeatureFile):
    def __init__(self, room):
        super().__init__(16)
        self.room = room

    def update(self, samples):
        if self.n + len(samples) > self.room:
            raise OSError(28, "No space left on device")
        super().update(samples.float().flatten(1))


FULL = r"frontier.json: a cell cannot be written \(No space left on device\); those before it are kept"


def test_a_disk_that_fills_with_features_is_told_as_that_of_a_cell(tmp_path):
    score(frontier(nfe=[2]), tmp_path)
    before = (tmp_path / "frontier.json").read_bytes()
    with pytest.raises(OSError, match=FULL):
        score(frontier(nfe=[4]), tmp_path, scorer=Spools())
    assert (tmp_path / "frontier.json").read_bytes() == before


def _fill(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    rooms = {"own": (99, 0), "joined": (15, 99)}  # the second rank's samples do not fit; or on the first rank
    for name, room in rooms.items():
        scorer = Spools()
        scorer.room = room[rank]
        with pytest.raises(OSError, match=FULL):
            score(frontier(nfe=[2]), path / name, scorer=scorer)
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_rank_ends_all_of_them(tmp_path):
    on_ranks(_fill, (tmp_path,), 2)
