"""Influences that metrics hand over, their files beside a frontier, and what a frontier says from them."""

import json
import statistics

import pytest
import torch
from test_frontier import Pixels, frontier, score
from torch import Tensor

from denoiselab.evaluation import (
    DensityCoverage,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Layer,
    PrecisionRecall,
    Score,
    Store,
)
from denoiselab.evaluation.metrics.frechet import frechet_scores, root_of
from denoiselab.evaluation.metrics.standard_errors import standard_error
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.report.verdicts import VERDICTS, sentences, write_verdicts
from denoiselab.evaluation.verdicts import Estimate, Influences, compare, frontiers, kept
from denoiselab.files import read_json
from denoiselab.samplers import DDIM, Ancestral, DPMSolverPP
from denoiselab.samplers.spacing import UniformLogSNR, UniformTime


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(features: Tensor, strata=1):
    moments = GaussianStatistics(features.shape[1], strata=strata)
    moments.update(features)
    return Layer(moments, features, strata)


def estimate(name, metric, features, reference, which):
    found = metric.scores(layer(features), reference)[which]
    lower = metric.lower_is_better[which]
    return Estimate(name, found.value, found.standard_error, len(features), found.influences, lower)


METRICS = [
    (lambda seed: FrechetDistance(), "fd", 300, 4),
    (lambda seed: FrechetDistance("spatial"), "sfd", 300, 4),
    (lambda seed: KernelDistance(blocks=4, block_size=200, seed=seed), "kd", 200, 4),
    (lambda seed: PrecisionRecall(), "precision", 300, 4),
    (lambda seed: DensityCoverage(), "density", 300, 4),
    (lambda seed: InceptionScore(seed=seed), "is", 400, 5),
]


@pytest.mark.parametrize(("made", "which", "n", "d"), METRICS, ids=[which for _, which, _, _ in METRICS])
def test_the_error_of_a_difference_on_shared_noise_is_that_of_many_draws(made, which, n, d):
    """Each cell is 1.15 or 1.1 times as wide as the reference, on noise that is 0.97 the same."""
    reference = layer(normal(600, d, seed=0))
    values, paired, alone = [], [], []
    for number in range(50):
        noise, other = normal(n, d, seed=1 + 2 * number), normal(n, d, seed=2 + 2 * number)
        cells = [1.15 * noise + 0.1, 1.1 * (0.97 * noise + (1 - 0.97**2) ** 0.5 * other)]
        metric = made(number)
        estimates = [estimate(str(i), metric, x, reference, which) for i, x in enumerate(cells)]
        both = compare(estimates)
        assert bool(both.paired.all())
        values.append(float(both.difference[0, 1]))
        paired.append(float(both.standard_error[0, 1]))
        alone.append(float(compare([one._replace(influences=None) for one in estimates]).standard_error[0, 1]))
    assert statistics.fmean(paired) == pytest.approx(statistics.stdev(values), rel=0.25)
    assert statistics.fmean(alone) > 1.2 * statistics.fmean(paired)


def test_recall_and_coverage_have_no_influences_and_values_at_infinity_share_those_of_the_value():
    reference, samples = layer(normal(300, 4, seed=0)), layer(normal(300, 4, seed=1))
    scores = {}
    for made, *_ in METRICS:
        scores |= made(0).scores(samples, reference)
    assert [name for name, one in scores.items() if one.influences is None] == [
        "fd_infinity", "sfd_infinity", "recall", "coverage"
    ]  # fmt: skip
    for name in ("precision", "density"):
        kept_of = scores[name].influences
        assert standard_error(kept_of.first, 300) == pytest.approx(scores[name].standard_error, rel=1e-6)


def test_a_file_of_influences_holds_them_and_a_damaged_one_is_no_file(tmp_path):
    path = tmp_path / "one" / "cell.npz"
    given = {
        "fid": Influences(normal(2048, seed=0), normal(512, seed=1), 50_000, 10),
        "kid": Influences(normal(9, seed=2), torch.empty(0), 9, 1, normal(4, seed=3)),
    }
    assert kept.read(path) == {}
    kept.write(path, given)
    found = kept.read(path)
    assert [*found] == ["fid", "kid"]
    for metric, one in given.items():
        assert (found[metric].n, found[metric].strata) == (one.n, one.strata)
        for name in ("first", "second", "blocks"):
            assert torch.equal(getattr(found[metric], name), getattr(one, name))
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        damaged = kept.read(path)
        assert damaged == {} or all(torch.equal(damaged[m].first, given[m].first) for m in damaged)
    path.write_bytes(whole[: len(whole) // 2])
    assert kept.read(path) == {}
    kept.write(tmp_path / "none.npz", {})
    assert not (tmp_path / "none.npz").exists()


class Frechet(Pixels):
    """A scorer with influences, without a value at infinity."""

    def scores(self, statistics, reference):
        return {self.metric: frechet_scores(statistics, reference, root_of(reference))[0], "n": Score(21.0)}


SAMPLERS = {
    "ddim": DDIM(UniformTime(), 1),
    "dpmpp_2m": DPMSolverPP(UniformLogSNR(), 1),
    "ancestral": Ancestral(UniformTime(), 1),
}


def scored(directory, protocol=None, **options):
    made = frontier(samplers=SAMPLERS, num_samples=200, batch_size=200, **options)
    return score(made, directory, scorer=Frechet(), protocol=protocol)


def test_cells_keep_their_influences_and_a_resumed_frontier_has_the_same_verdicts(tmp_path):
    records = scored(tmp_path)
    store = Store(tmp_path)
    for record in records:
        (one,) = store.influences(record).values()
        assert (len(one.first), one.n, one.strata) == (200, 200, 1)
        assert len(one.second) > 100
    content = write_verdicts(store, records)
    assert read_json(tmp_path / VERDICTS) == json.loads(json.dumps(content))
    (group,) = (group for group in content["groups"] if group["primary"])
    assert (len(group["cells"]), len(group["pairs"]), group["at"]) == (6, 15, "n")
    assert all(pair["paired"] for pair in group["pairs"])
    own = [cell["standard_error"] for cell in group["cells"]]
    shared = [pair["standard_error"] / (own[pair["a"]] ** 2 + own[pair["b"]] ** 2) ** 0.5 for pair in group["pairs"]]
    assert min(shared) < 0.5  # of two ODE solvers
    # Half of the cells before an interruption, the rest after it.
    part = tmp_path / "part"
    scored(part, nfe=[2])
    assert write_verdicts(Store(part), scored(part))["groups"] == content["groups"]
    assert [r["pareto"] for r in records] == [c["standing"] != "dominated" for c in group["cells"]]


def test_a_cell_whose_influences_are_lost_is_compared_as_independent_and_named(tmp_path):
    records = scored(tmp_path)
    store = Store(tmp_path)
    before = sentences(write_verdicts(store, records))
    assert not any("noise of their own" in sentence for sentence in before)
    files = sorted((tmp_path / "influences").iterdir())
    assert len(files) == len(records)
    (tmp_path / "influences" / f"{records[0]['cell']}.npz").unlink()
    (tmp_path / "influences" / f"{records[1]['cell']}.npz").write_bytes(b"no archive")
    content = write_verdicts(store, records)
    assert sentences(content)[-1] == (
        "Compared as if on noise of their own, as no influences of their samples are stored: ddim@2, ddim@4; "
        "evaluation.rescore=true (sample.py: task.rescore=true) scores them again."
    )
    pairs = content["groups"][0]["pairs"]
    assert [pair["paired"] for pair in pairs] == [pair["a"] > 1 for pair in pairs]
    lone = next(pair for pair in pairs if (pair["a"], pair["b"]) == (0, 2))
    errors = [records[i]["standard_error"] for i in (0, 2)]
    assert lone["standard_error"] == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5)
    kept_ones = [file.stat().st_mtime_ns for file in sorted((tmp_path / "influences").iterdir())]
    again = scored(tmp_path, rescore=True)
    assert [(r["cell"], r["score"]) for r in again] == [(r["cell"], r["score"]) for r in records]
    assert sentences(write_verdicts(store, again)) == before
    now = [file.stat().st_mtime_ns for file in sorted((tmp_path / "influences").iterdir())]
    assert len(set(now) - set(kept_ones)) == 2  # the others are not scored again


def test_sentences_name_the_best_of_a_budget_its_ties_and_what_is_surely_worse(tmp_path):
    def record(sampler, nfe, value, error=0.01):
        return {
            "cell": f"{sampler} {nfe}", "sampler": sampler, "nfe": nfe, "network_evaluations": nfe, "score": value,
            "standard_error": error, "metric": "fid", "n": 100, "guidance": 1, "weights": "ema",
            "scores": {"fid": {"value": value, "standard_error": error, "lower_is_better": True}},
        }  # fmt: skip

    records = [
        record("dpmpp_2m", 10, 3.70), record("unipc", 10, 3.73), record("ddim", 10, 5.0), record("heun", 9, 9.0),
        record("ddim", 5, 20.0), record("unipc", 5, 8.0),
    ]  # fmt: skip
    found = sentences(write_verdicts(Store(tmp_path), records))
    assert found[:2] == [
        "NFE 5: unipc; surely worse: ddim",
        "NFE 10: dpmpp_2m; ties: unipc (difference 0.030 +- 0.040); surely worse: ddim, heun at 9",
    ]
    assert found[2].startswith(
        "Differences are those of fid at n = 100, and all 15 of them lie within +- at once with "
    )
    # The best is not sure enough to be better than ddim; what ties with it is.
    unsure = [record("heun", 10, 3.70, 0.5), record("unipc", 10, 3.73), record("ddim", 10, 4.2)]
    (sentence, *_) = sentences(write_verdicts(Store(tmp_path), unsure))
    assert sentence.startswith("NFE 10: heun; ties: unipc (")
    assert sentence.endswith("; surely worse: ddim (than unipc)")
    blind = [record("ddim", 5, 2.0, None), record("heun", 5, 3.0, None)]
    assert sentences(write_verdicts(Store(tmp_path), blind)) == [
        "NFE 5: ddim; ties: heun",
        "No verdicts: fid has no standard error of these cells.",
    ]


def cell(sampler, nfe, value, **other):
    infinite = {"value": None, "standard_error": None, "lower_is_better": True}
    return {
        "cell": f"{sampler} {nfe}", "sampler": sampler, "nfe": nfe, "network_evaluations": nfe, "score": value,
        "standard_error": 0.01, "metric": "fid", "n": 100, "guidance": 1, "weights": "ema", **other,
        "scores": {"fid": {"value": value, "standard_error": 0.01, "lower_is_better": True}, "fid_infinity": infinite},
    }  # fmt: skip


def test_a_value_at_n_is_called_so_where_it_might_be_one_at_infinity(tmp_path):
    found = sentences(write_verdicts(Store(tmp_path), [cell("ddim", 10, 5.0), cell("unipc", 10, 3.0)]))
    assert found[0] == "NFE 10, at n = 100: unipc; surely worse: ddim"
    assert sum(said.startswith("The bias of fid at n = 100 does not cancel") for said in found) == 1


def test_samplers_that_spend_different_numbers_of_calls_are_compared(tmp_path):
    records = [cell("ddim", 5, 9.0), cell("heun", 9, 3.0), cell("ddim", 10, 5.0), cell("heun", 19, 2.0)]
    records += [cell("ddim", 20, 4.0)]
    found = sentences(write_verdicts(Store(tmp_path), records))
    assert [said for said in found if said.startswith("NFE")] == [
        "NFE 10, at n = 100: heun at 9; surely worse: ddim",
        "NFE 20, at n = 100: heun at 19; surely worse: ddim",
    ]


def test_cells_of_other_code_are_named_and_no_note_is_repeated(tmp_path):
    other = {"other_code": True, "code_sha256": "0000"}
    records = [cell("unipc", 10, 5.0), cell("unipc", 5, 7.0), cell("ddim", 10, 6.0, **other)]
    records += [cell("ddim", 5, 6.0, **other)]
    found = sentences(write_verdicts(Store(tmp_path), records))
    assert found[-1] == "ddim code=0000 is not compared with the others: another version of the code scored it."
    assert len(found) == 5 == len({*found})  # notes on differences and bias once, on pairing of each, and this one


def test_verdicts_have_the_level_that_is_asked_for(tmp_path):
    records = [cell("unipc", 10, 5.0), cell("ddim", 10, 5.03)]
    both = [write_verdicts(Store(tmp_path), records, level) for level in (0.05, 0.01)]
    assert [one["level"] for one in both] == [0.05, 0.01]
    assert sentences(both[0])[1].startswith("The difference is that of fid at n = 100, and it lies within +- with ")
    assert read_json(tmp_path / VERDICTS)["level"] == 0.01
    assert [one["groups"][0]["pairs"][0]["verdict"] for one in both] == ["better", "undecided"]
    assert "probability 99%" in sentences(both[1])[1]


def test_only_groups_of_added_cells_are_marked_again(tmp_path, monkeypatch):
    """A run that is scored while it trains has a group of cells for each checkpoint."""
    compared = []
    monkeypatch.setattr(frontiers, "compare", lambda *given: (compared.append(len(given[0])), compare(*given))[1])
    for seen in range(3):
        scored(tmp_path, protocol={"images_seen": seen}, nfe=[2])
        assert {*compared} == {1, 2, 3}
        compared.clear()
    assert all("pareto" in record for record in Store(tmp_path).read().values())
