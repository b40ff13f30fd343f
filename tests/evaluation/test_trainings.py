import math

import pytest
import torch
from scipy.stats import ttest_1samp
from test_page import browser, chromium, opened, record  # noqa: F401

from denoiselab.app.runs.panel import alone, panels, sentences, table
from denoiselab.evaluation import Store, trainings
from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.report.page import page_run, write_page
from denoiselab.evaluation.trainings import compare_over, panel_of
from denoiselab.evaluation.verdicts.panel import crossed

N, RUNS = 512, 3


def draws():
    """Samples of two cells of each run, which share much by index, `(RUNS, 2, N)`."""
    rng = torch.Generator().manual_seed(0)
    index = torch.randn(1, 1, N, generator=rng, dtype=torch.float64)
    training = torch.randn(RUNS, 1, 1, generator=rng, dtype=torch.float64)
    own = torch.randn(RUNS, 2, N, generator=rng, dtype=torch.float64)
    return index + 0.2 * own + 0.3 * training + torch.tensor([3.0, 4.0])[:, None]


def runs(tmp_path, seeds=(0, 0, 0), kept=True, **other):
    """Directories of runs, each with two cells."""
    homes = []
    for number, x in enumerate(draws()):
        store = Store(tmp_path / f"run{number}")
        records = []
        for name, sample in zip(("ddim", "dpmpp_2m"), x, strict=True):
            value, error = float(sample.mean()), float(sample.std() / math.sqrt(N))
            one = record(name, 10, value, n=N, seed=seeds[number], weights_sha256=str(number) * 64, **other)
            one |= {"cell": f"{name}{number}" * 8, "standard_error": error}
            metric = one["metric"]
            one["scores"] = {metric: {"value": value, "standard_error": error, "lower_is_better": True}}
            if kept:
                store.keep(one, {metric: Influences(sample - sample.mean(), torch.empty(0), N)})
            records.append(one)
        store.add(records)
        homes.append(store.directory)
        (store.directory / "config.yaml").write_text(
            f"seed: {number}\nname: digits\noptimizer: {{lr: 0.001}}\npaths: {{run_dir: {number}}}\n"
        )
    return homes


def test_a_panel_has_the_scores_over_trainings_and_their_differences(tmp_path):
    panel = panel_of([Store(home) for home in runs(tmp_path)])
    x = draws()
    influences = x - x.mean(2, keepdim=True)
    for cell, row in enumerate(panel["cells"]):
        expected = crossed(x[:, cell].mean(1), influences[:, cell], N)
        assert row["mean"] == pytest.approx(expected.mean)
        assert row["interval"] == pytest.approx(expected.interval(), rel=1e-5)
        assert row["training_sd"] == pytest.approx(expected.training, rel=1e-5)
        assert row["draw_sd"] == pytest.approx(expected.draw, rel=1e-5)
        assert row["crossed"]
    (difference,) = panel["differences"]
    assert (difference["best"]["sampler"], difference["other"]["sampler"]) == ("ddim", "dpmpp_2m")
    expected = crossed(x[:, 1].mean(1) - x[:, 0].mean(1), influences[:, 1] - influences[:, 0], N)
    assert difference["interval"] == pytest.approx(expected.interval(), rel=1e-4)
    assert difference["sure"]
    assert difference["seeds_needed"] in (2, 3)
    alone_ = panel["cells"][0]["interval"]
    assert (
        difference["interval"][1] - difference["interval"][0] < (alone_[1] - alone_[0]) / 5
    )  # what runs share cancels


def test_runs_that_score_indices_of_their_own_have_the_plain_t_interval(tmp_path):
    panel = panel_of([Store(home) for home in runs(tmp_path, seeds=(0, 1, 2), kept=False)])
    low, high = ttest_1samp(draws()[:, 0].mean(1), 0).confidence_interval(0.95)
    assert panel["cells"][0]["interval"] == pytest.approx([float(low), float(high)])
    assert not panel["cells"][0]["crossed"]


def cells(tmp_path, **options):
    """The first and the second cell of all runs, each with its store."""
    stores = [Store(home) for home in runs(tmp_path, **options)]
    rows = [sorted(store.read().values(), key=lambda row: row["sampler"]) for store in stores]
    return [[(store, row[cell]) for store, row in zip(stores, rows, strict=True)] for cell in (0, 1)]


def test_two_chosen_cells_have_verdicts_on_each_training_and_on_the_method(tmp_path):
    one, other = cells(tmp_path)
    found = compare_over(one, other)
    x = draws()
    differences = x[:, 0] - x[:, 1]
    for single, sample in zip(found["single"], differences, strict=True):
        assert single["difference"] == pytest.approx(float(sample.mean()))
        assert single["standard_error"] == pytest.approx(float(sample.std() / math.sqrt(N)), rel=1e-4)
        assert single["verdict"] == "better"
    expected = crossed(differences.mean(1), differences - differences.mean(1, keepdim=True), N)
    assert found["interval"] == pytest.approx(expected.interval(), rel=1e-4)
    assert found["verdict"] == "better"
    assert compare_over(other, one)["verdict"] == "worse"
    low, high = compare_over(one, other, level=0.001)["interval"]
    assert low < found["interval"][0] < found["interval"][1] < high
    with pytest.raises(ValueError, match="2 and 3 trainings"):
        compare_over(one[:2], other)


def test_where_more_is_better_the_verdict_is_the_other_one(tmp_path):
    one, other = cells(tmp_path)
    for _, row in (*one, *other):
        row["scores"][row["metric"]]["lower_is_better"] = False
    found = compare_over(one, other)
    assert found["verdict"] == "worse"
    assert {single["verdict"] for single in found["single"]} == {"worse"}


def test_without_influences_there_is_a_plain_t_interval_and_no_verdict_on_one_training(tmp_path):
    one, other = cells(tmp_path, kept=False)
    for _, row in (*one, *other):
        row["scores"][row["metric"]]["standard_error"] = None
    found = compare_over(one, other, metric=one[0][1]["metric"])
    differences = (draws()[:, 0] - draws()[:, 1]).mean(1)
    expected = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([float(expected.low), float(expected.high)], rel=1e-5)
    assert {single["verdict"] for single in found["single"]} == {"undecided"}


class Scores:
    """A store of cells with these scores, of indices of its own."""

    def __init__(self, seed, scores):
        rows = [record(f"sampler{i}", 10, value, n=N, seed=seed) | {"cell": f"{i}"} for i, value in enumerate(scores)]
        self.rows = [one | {"scores": {one["metric"]: {"standard_error": None}}} for one in rows]

    def read(self):
        return dict(enumerate(self.rows))

    def influences(self, record):
        return {}


def test_true_ties_over_trainings_are_seldom_sure_of_any_difference(monkeypatch):
    monkeypatch.setattr(trainings, "seeds_needed", lambda ratio: None)  # slow
    rng = torch.Generator().manual_seed(0)
    wrong, frontiers = 0, 300
    for _ in range(frontiers):
        scores = 1 + 0.01 * torch.randn(6, 3, generator=rng, dtype=torch.float64)
        panel = panel_of([Scores(seed, column.tolist()) for seed, column in enumerate(scores.T)])
        assert len(panel["differences"]) == 5
        wrong += any(difference["sure"] for difference in panel["differences"])
    assert wrong / frontiers <= 0.06


def test_runs_on_the_same_indices_without_influences_make_no_panel(tmp_path):
    assert panel_of([Store(home) for home in runs(tmp_path, kept=False)]) is None


def test_a_cell_of_other_numbers_of_samples_is_left_out_with_the_reason(tmp_path):
    homes = runs(tmp_path, stop={"level": 0.05, "max_samples": 1024, "boundary": "simulated"}, against={}, undecided={})
    store = Store(homes[0])
    one = next(record for record in store.read().values() if record["sampler"] == "ddim")
    store.add([{**one, "n": 2 * N}])
    store.keep(one, {one["metric"]: Influences(torch.randn(N), torch.empty(0), 2 * N)})
    panel = panel_of([Store(home) for home in homes])
    assert [row["sampler"] for row in panel["cells"]] == ["dpmpp_2m"]
    assert sentences(panel) == [
        "ddim@10 is left out: trainings have 512 and 1024 samples of it; stop=fixed gives all of them as many."
    ]


def test_runs_that_differ_by_their_seed_alone_make_a_panel(tmp_path):
    homes = runs(tmp_path)
    named = {home.name: home for home in homes}
    (panel,) = panels(named)
    assert (panel["runs"], panel["seeds"]) == (["run0", "run1", "run2"], [0, 1, 2])
    text = table([panel])
    assert "3 trainings (seed 0, 1, 2)" in text
    assert "sd of training" in text
    (sentence,) = sentences(panel)
    assert sentence.startswith("dpmpp_2m@10 less ddim@10: ")
    assert sentence.endswith("sure over trainings")
    assert alone(named, [panel]) == []
    other = homes[2] / "config.yaml"
    other.write_text(other.read_text().replace("0.001", "0.002"))
    (panel,) = panels(named)
    assert panel["runs"] == ["run0", "run1"]
    assert alone(named, [panel])[0].endswith("seeds of training: run2")
    assert panels({"run0": homes[0], "run2": homes[2]}) == []


def test_the_page_of_a_panel_answers_by_means_over_trainings(tmp_path, browser):  # noqa: F811
    homes, trouble = runs(tmp_path), []
    named = {f"seed={number}": home for number, home in enumerate(homes)}
    (panel,) = panels(named)
    write_page(tmp_path / "page.html", [page_run(name, home) for name, home in named.items()], panels=[panel])
    page = opened(browser, tmp_path / "page.html", trouble)
    mean, error = panel["cells"][0]["mean"], panel["cells"][0]["standard_error"]
    assert page.inner_text("#headline") == f"At 10 calls, mean of 3 trainings: ddim, {mean:.2f} ± {error:.2f}."
    assert page.inner_text("#sure") == "Sure over trainings at the 5 % level: better than dpmpp_2m."
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#ranking tr").all()[1:]]
    assert [(row[0], row[3]) for row in rows] == [("ddim", "best"), ("dpmpp_2m", "surely worse")]
    (difference,) = panel["differences"]
    low, high = difference["interval"]
    shown = [float(text) for text in rows[1][2].split(" ± ")]
    assert shown == pytest.approx([difference["mean"], (high - low) / 2], abs=0.006)
    for row in panel["cells"] + panel["differences"]:
        row["metric"] += "_infinity"
    write_page(tmp_path / "page.html", [page_run(name, home) for name, home in named.items()], panels=[panel])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.inner_text("#sure").endswith("better than dpmpp_2m. Means are of values at infinite n.")
    assert trouble == []
