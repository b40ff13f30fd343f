"""The order of a sweep's jobs, and what seeds say of it."""

import numpy as np
import pytest
from scipy import stats

from denoiselab.evaluation.report.sweep_picture import axes_of, axis
from denoiselab.evaluation.report.sweep_ranking import job, ranking
from denoiselab.evaluation.report.sweep_texts import cell_text, group_rows, remarks, time_text


def done(number, value, **options):
    overrides = [f"{name.replace('__', '.')}={text}" for name, text in options.items()]
    return job(str(number), {"status": "done", "value": value, "overrides": overrides})


def test_intervals_and_verdicts_over_seeds_are_those_of_t_tests():
    """Of the mean a t interval; of the differences from the best, on the same seeds, for all pairs at once."""
    values = {"a": [10.0, 10.4, 10.1, 10.3], "b": [12.0, 12.5, 12.0, 12.4], "c": [10.2, 10.5, 10.4, 10.2]}
    jobs = [
        done(f"{place}{seed}", value, method=name, seed=seed, name="x")
        for place, (name, row) in enumerate(values.items())
        for seed, value in enumerate(row)
    ]
    found = ranking(jobs, "frontier/best", ["method", "seed"])
    assert [group.options["method"] for group in found.groups] == ["a", "c", "b"]
    for group in found.groups:
        row = np.array(values[group.options["method"]])
        expected = stats.t.interval(0.95, len(row) - 1, row.mean(), stats.sem(row))
        assert group.mean == pytest.approx(row.mean(), rel=1e-12)
        assert group.interval == pytest.approx(expected, rel=1e-9)
    assert [group.verdict for group in found.groups] == ["best", "undecided", "surely worse"]
    p = [stats.ttest_rel(values[name], values["a"]).pvalue for name in "cb"]
    assert p[0] > 0.05 / 3 > p[1]
    # The seeds needed are those at which the power of the two-sided test reaches 0.8, and not one fewer.
    difference = np.subtract(values["c"], values["a"])
    n, ratio = found.groups[1].seeds_needed, difference.mean() / difference.std(ddof=1)

    def power(runs):
        return stats.nct.sf(stats.t.ppf(1 - 0.05 / 3 / 2, runs - 1), runs - 1, ratio * runs**0.5)

    assert power(n) >= 0.8 > power(n - 1)
    assert remarks(found)[:1] == [
        f"1 of 2 others are surely worse over seeds; the nearest that is not is method=c, 10.32 (some {n} seeds would "
        "show it)."
    ]


def test_seeds_are_paired_and_lost_jobs_are_counted():
    jobs = [
        done(i, v, lr=lr, seed=s) for i, (lr, s, v) in enumerate([(1, 0, 5.0), (1, 1, 9.0), (2, 0, 6.0), (2, 2, 6.1)])
    ]
    lost = job("4", {"status": "failed", "overrides": ["lr=2", "seed=1"]})
    found = ranking([*jobs, lost], "m", ["lr", "seed"])
    assert [(group.options["lr"], len(group.jobs), group.asked) for group in found.groups] == [("2", 2, 3), ("1", 2, 2)]
    assert found.groups[1].verdict == ""  # one seed in common tells nothing
    assert group_rows(found)[1][:3] == ["2", "2 of 3", "6.05"]
    assert [one.number for one in found.jobs] == ["0", "2", "3", "1", "4"]


def test_one_training_each_is_said_to_tell_nothing_of_seeds():
    found = ranking([done(0, 2.0, lr=1), done(1, 1.0, lr=2)], "m")
    assert found.best.number == "1"
    assert not found.over_seeds
    assert remarks(found)[0].startswith("one training each")
    assert remarks(ranking([done(0, 2.0, lr=1)], "m")) == []


def test_options_that_all_jobs_share_are_no_columns():
    jobs = [
        done(i, float(i), lr=i, batch_size=64, name=f"n{i}", logger="wandb", paths__log_dir=f"x{i}") for i in range(2)
    ]
    assert ranking(jobs, "m").options == ["lr"]
    assert ranking(jobs, "m", ["batch_size"]).options == ["batch_size", "lr"]


@pytest.mark.parametrize(
    ("texts", "places", "ticks"),
    [
        (["1e-4", "1e-2", "1e-3"], [0, 1, 0.5], ["0.0001", "0.001", "0.01"]),  # far apart: logarithmic
        (["1", "2", "5"], [0, 0.25, 1], ["1", "2", "5"]),
        (["edm", "ddpm", None], [0, 1, None], ["edm", "ddpm"]),
        (["3", "null", "3"], [0, 1, 0], ["3", "null"]),
        (["7", "7", "7"], [0.5] * 3, ["7"]),
        (["nan", "inf", "1"], [0, 0.5, 1], ["nan", "inf", "1"]),
    ],
)
def test_an_axis_of_the_picture(texts, places, ticks):
    made = axis("x", texts)
    assert made.places == pytest.approx(places)
    assert [text for _, text in made.ticks] == ticks


def test_the_axis_of_values_leaves_out_those_of_less_training():
    pruned = job("2", {"status": "pruned", "value": 1.0, "overrides": ["lr=3"]})
    *_, values = axes_of(ranking([done(0, 30.0, lr=1), done(1, 20.0, lr=2), pruned], "m"))
    assert values.places == [0.0, 1.0, None]


def test_texts_of_cells_and_times():
    cell = {"sampler": "heun", "nfe": 10.0, "weights": "ema", "guidance": 2.0, "guider": {"name": "cfg"}}
    assert cell_text(job("0", {"cell": cell})) == "heun@10 ema scale=2"
    assert cell_text(job("0", {"cell": {"sampler": "x", "nfe": "1", "guidance": []}})) == "x"
    assert cell_text(job("0", {})) == ""
    assert [time_text(seconds) for seconds in (None, 5.2, 65, 7325)] == ["", "0:05", "1:05", "2:02:05"]


def test_a_mean_over_the_seeds_that_a_pruner_has_left_is_said_to_be_too_low():
    jobs = [done(number, 10.0 + number, lr=1, seed=number) for number in range(3)]
    pruned = job("3", {"status": "pruned", "value": 30.0, "overrides": ["lr=1", "seed=3"]})
    said = "means over seeds leave out pruned jobs"
    assert [text.startswith(said) for text in remarks(ranking([*jobs, pruned], "m"))] == [True, False]
    assert [text.startswith(said) for text in remarks(ranking(jobs, "m"))] == [False]
