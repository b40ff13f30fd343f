"""The best cells within a budget of calls, evaluations, time or operations."""

import pytest
from test_page import ladder, scored

from denoiselab.evaluation import Store
from denoiselab.evaluation.report.budget import Budget


@pytest.mark.parametrize("text", ["40", "ms", "40 s", "-1ms", "0ms", "40msx", "1e3ms"])
def test_a_budget_has_a_number_and_a_unit(text):
    with pytest.raises(ValueError, match=rf"best_under={text}: it must be a number above 0 and a unit: 40ms"):
        Budget(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10calls", "under 10calls: b@10, 5.00 (10 calls); surely worse: c@10, d@10"),
        ("20 calls", "under 20 calls: b@20, 4.00 (20 calls); ties: c@20; surely worse: d@20"),
        ("10evaluations", "under 10evaluations: b@10, 5.00 (10 evaluations); surely worse: c@10, d@10"),
        ("40ms", "under 40ms: c@20, 4.10 (40 ms); surely worse: d@20"),
        ("80MS", "under 80MS: c@20, 4.10 (40 ms); surely worse: b@10, d@20"),
        ("20gflops", "under 20gflops: b@10, 5.00 (20 GFLOPs); surely worse: c@10, d@10"),
        ("9calls", "under 9calls: no cell of fid costs so little."),
    ],
)
def test_the_best_within_a_budget_and_what_ties_with_it(text, says, tmp_path):
    store = Store(tmp_path)
    store.add(ladder())
    assert Budget(text).sentences(store, [*store.read().values()]) == [says]


def test_cells_that_were_not_timed_are_counted(tmp_path):
    store = Store(tmp_path)
    store.add([*ladder(), scored("e", 10, 1.0, 0.1)])
    first, second = Budget("40ms").sentences(store, [*store.read().values()])
    assert first.startswith("under 40ms: c@20")
    assert second == "1 of 7 cells have no ms: they were scored before it was measured."
