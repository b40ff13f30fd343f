import json
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from test_contracts import CPU, Pixels
from test_frontier import SHAPE, Shrink

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import ImageSet
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import (
    Control,
    FrechetDistance,
    Frontier,
    KernelDistance,
    Measure,
    Stopping,
    Store,
    Subject,
    Undecidable,
    Workspace,
)
from denoiselab.evaluation.features.extractors import FeatureScorer
from denoiselab.evaluation.metrics.wasserstein import SlicedScorer
from denoiselab.evaluation.report.verdicts import VERDICTS, write_verdicts
from denoiselab.evaluation.standing import ALWAYS_VALID
from denoiselab.evaluation.verdicts.frontiers import comparison, groups
from denoiselab.evaluation.verdicts.sequential import planned_looks
from denoiselab.model import Model
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import VPLinear

# Whichever of eta = 0 and 1 is the better one, it has a near one that only many samples tell from it.
SAMPLERS = {
    "ddim": DDIM(UniformTime(), 1),
    "twin": DDIM(UniformTime(), 1),
    "near": DDIM(UniformTime(), 1, eta=0.02),
    "noisy": DDIM(UniformTime(), 1, eta=1.0),
    "noisy_near": DDIM(UniformTime(), 1, eta=0.999),
}


STOPPING = Stopping(0.05, 1024)
LOOKS = planned_looks(4, 1024)


class Bent(Shrink):
    """An eps network that is exact but for a bend, so that no sampler has exact data."""

    def forward(self, x, label, cond=None):
        return super().forward(x, label) + 0.1 * torch.tanh(x)


def run(directory, stopping=STOPPING, check=lambda moment: None, metric=None, scorer=None, batch=100, n=256, **options):
    denoiser = Denoiser(Bent(), VPLinear(), parameterizations.eps, ScaledTime())
    scorer = scorer or FeatureScorer(Pixels(), [metric or FrechetDistance()], {"frechet": {}})
    data = (torch.randn(3000, *SHAPE, generator=torch.Generator().manual_seed(0)) * 64 + 128).clamp(0, 255)
    images = ImageSet(data.to(torch.uint8), torch.zeros(3000).long())
    reference = scorer.reference(images, {"data": "toy"}, Workspace(directory / "cache", shown=False), CPU)
    subject = Subject(Model(denoiser, Unconditional(), Identity(SHAPE)), lambda name: nullcontext())
    given = {"samplers": SAMPLERS, "nfe": [2, 4], **options}
    frontier = Frontier(
        **given, settings={name: {} for name in given["samplers"]}, schedule=VPLinear(), extra_nfe={}, num_samples=n,
        batch_size=batch, seed=0, weights=["raw"], stopping=stopping,
    )  # fmt: skip
    protocol = {"data": "toy", "images_seen": 0, "split": "train"}
    return frontier.run(subject, Measure(scorer, reference), Store(directory), protocol, {}, Control(check))


def of_interest(records):
    keys = (
        "cell",
        "sampler",
        "nfe",
        "n",
        "score",
        "standard_error",
        "scores",
        "stop",
        "stopped",
        "against",
        "undecided",
    )
    return [{key: record[key] for key in keys} for record in records]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def test_samples_are_spent_on_open_verdicts_and_each_cell_says_how_many_and_why(whole):
    directory, records = whole
    assert {record["metric"] for record in records} == {"fd_infinity"}
    assert all(record["score"] == record["scores"]["fd_infinity"]["value"] for record in records)
    spent = {(record["sampler"], record["nfe"]): record["n"] for record in records}
    assert {256} < {*spent.values()} <= {*LOOKS}
    assert spent["ddim", 2] == spent["twin", 2]  # the same samples
    assert all(record["stop"] == STOPPING._asdict() for record in records)
    reasons = {(record["sampler"], record["nfe"]): record["stopped"] for record in records}
    assert any(reason.startswith("surely worse than ") for reason in reasons.values())
    for cell, reason in reasons.items():
        assert reason == "decided" or reason.startswith("surely worse") or (spent[cell] == 1024 and "1024" in reason)
    (group,) = groups(records)  # of different n, and still one frontier
    both = comparison(group, lambda record: {})
    worse = {record["cell"]: record["stopped"] for record in records if record["stopped"].startswith("surely")}
    for j, record in enumerate(group):
        if record["cell"] in worse:
            assert any(
                both.verdict(k, j) == "better"
                and worse[record["cell"]].startswith(f"surely worse than {other['sampler']} at NFE {other['nfe']}")
                for k, other in enumerate(group)
            )
    twins = [i for i, record in enumerate(group) if record["nfe"] == 2 and record["sampler"] in ("ddim", "twin")]
    assert both.verdict(*twins) == "tie"
    assert json.loads((directory / "frontier.json").read_text())
    assert "against" not in (directory / "frontier.csv").read_text().splitlines()[0]


def test_a_cell_has_the_score_of_all_its_samples_at_once(whole, tmp_path):
    _, records = whole
    for n in {record["n"] for record in records}:
        fixed = run(tmp_path / str(n), None, n=n)
        for record in records:
            if record["n"] == n:
                (same,) = (r for r in fixed if (r["sampler"], r["nfe"]) == (record["sampler"], record["nfe"]))
                assert record["scores"]["fd"]["value"] == pytest.approx(same["scores"]["fd"]["value"], rel=1e-9)
                assert record["standard_error"] == pytest.approx(
                    same["scores"]["fd_infinity"]["standard_error"], rel=1e-6
                )
                assert record["network_evaluations"] == same["network_evaluations"]


@pytest.mark.parametrize("steps", [1, 30, 77, 150])
def test_a_killed_frontier_ends_with_the_same_verdicts(whole, tmp_path, steps):
    left = [steps]

    def check(moment):
        left[0] -= 1
        if not left[0]:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, check=check)
    assert not (tmp_path / "frontier.json").exists()
    resumed = run(tmp_path)
    assert of_interest(resumed) == of_interest(whole[1])
    for directory, records in (whole, (tmp_path, resumed)):
        write_verdicts(Store(directory), records)
    assert (tmp_path / VERDICTS).read_bytes() == (whole[0] / VERDICTS).read_bytes()
    (group,) = json.loads((tmp_path / VERDICTS).read_text())["groups"]
    assert {"better", "undecided"} <= {pair["verdict"] for pair in group["pairs"]}


def test_a_finished_frontier_is_not_drawn_again_and_damaged_files_are(whole, tmp_path):
    def never(moment):
        raise Killed

    directory, records = whole
    assert of_interest(run(directory, check=never)) == of_interest(records)
    (file,) = directory.glob("decided/*/looks.json")
    cells = sorted(file.parent.glob("*.pt"))
    assert len(cells) == len(records)
    assert max(cell.stat().st_size for cell in cells) < 50_000  # without sums
    damage = [
        lambda cell: cell.write_bytes(cell.read_bytes()[:-2000]),
        lambda cell: torch.save({"weights": torch.zeros(3)}, cell),  # a whole file of something else
    ]
    calls = max(record["n"] * record["nfe"] for record in records)
    for spoil in damage:
        spoil(cells[0])
        drawn = []
        with pytest.warns(UserWarning, match=rf"{cells[0].name}: damaged, or no cell of a frontier"):
            again = run(directory, check=lambda moment, drawn=drawn: drawn.append(len(moment.x)))
        assert of_interest(again) == of_interest(records)
        assert 0 < sum(drawn) <= calls + 3 * 100 * 4  # of one cell, and the warm-up of each look
    cells[0].unlink()
    assert of_interest(run(directory)) == of_interest(records)


def test_an_always_valid_frontier_goes_on_with_more_samples(tmp_path):
    short = run(tmp_path, Stopping(0.05, 256, ALWAYS_VALID))
    assert {record["n"] for record in short} == {256}
    drawn = []
    longer = run(
        tmp_path, Stopping(0.05, 1024, ALWAYS_VALID), check=lambda moment, drawn=drawn: drawn.append(len(moment.x))
    )
    assert max(record["n"] for record in longer) > 256
    more = sum((record["n"] - 256) * record["nfe"] for record in longer)
    assert 0 < sum(drawn) <= more + 2 * 100 * 4  # and the warm-up of each look


def test_what_cannot_be_decided_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(Undecidable, match=r"max_samples=100: the first look is at .* = 256 samples"):
        run(tmp_path, Stopping(0.05, 100))
    points = SlicedScorer(16, 4)
    with pytest.raises(
        Undecidable, match=r"stop=decided: scores of sliced_w1 take all samples at once and .*; allowed: fixed"
    ):
        run(tmp_path, scorer=points)


def test_a_metric_of_all_features_is_decided_too(tmp_path):
    records = run(tmp_path, metric=KernelDistance(2, 64), nfe=[2])
    assert {record["metric"] for record in records} == {"kd"}
    assert {record["n"] for record in records} <= {*LOOKS}


def ranked(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    torch.save(of_interest(run(path / "two", batch=50)), path / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_come_to_the_same_verdicts(whole, tmp_path):
    on_ranks(ranked, (tmp_path,), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert [(r["cell"], r["n"], r["stopped"]) for r in first] == [(r["cell"], r["n"], r["stopped"]) for r in whole[1]]
    assert [r["score"] for r in first] == pytest.approx([r["score"] for r in whole[1]], rel=1e-6)
    assert [(r["cell"], r["n"]) for r in second] == [(r["cell"], r["n"]) for r in first]
