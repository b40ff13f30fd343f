"""What verdicts cost: time of the default frontier, and memory and disk of influences and of open cells."""

import time
from contextlib import nullcontext

import pytest
import torch
from configurations import build
from test_frontier_cost import Clock

from denoiselab import parameterizations
from denoiselab.choices import network, node
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import Digits
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import (
    DomainClassifier,
    FrechetDistance,
    Frontier,
    Measure,
    Store,
    Subject,
    Workspace,
    cell,
    drawn,
    store,
)
from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.metrics import frechet
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.report import page, verdicts
from denoiselab.evaluation.verdicts import kept
from denoiselab.model import Model
from denoiselab.schedules import VPLinear

pytestmark = pytest.mark.benchmark


def test_the_default_frontier_takes_at_most_a_twentieth_more(tmp_path, monkeypatch):
    """13 cells of 512 samples: CPU time in what verdicts added, over that of the rest.

    Added are the second influences, the files of influences, the cost of a call, the marks after each cell,
    `verdicts.json`, and the whole page.
    """
    options = node("evaluation", "default")
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    scorer = DomainClassifier().fit(
        train, held_out, {"frechet": FrechetDistance()}, {"frechet": {}}, Workspace(tmp_path, shown=False)
    )
    work = Workspace(tmp_path, shown=False)
    reference = scorer.reference(train, {"data": "digits", "split": "train"}, work, torch.device("cpu"))
    unet = network("ddpm_tiny", shape=[1, 8, 8]).to(memory_format=torch.channels_last).eval()
    denoiser = Denoiser(unet, VPLinear(), parameterizations.eps, ScaledTime())
    samplers = {name: build("sampler", name) for name in options["samplers"]}
    frontier = Frontier(
        samplers, {name: {} for name in samplers}, denoiser.schedule, options["nfe"], options["extra_nfe"],
        options["num_samples"], options["batch_size"], 0, ["raw"],
    )  # fmt: skip
    clocks = {}
    for owner, name in (
        (frechet, "_double_differences"), (cell, "cost_of_call"), (cell.Stopwatch, "record"), (Store, "keep"),
        (store, "mark_pareto"), (verdicts, "write_verdicts"), (page, "write_page"),
    ):  # fmt: skip
        clocks[name] = Clock(time.process_time)
        monkeypatch.setattr(owner, name, clocks[name].around(getattr(owner, name)))
    from plotly.offline import get_plotlyjs  # the page had it before there were verdicts

    get_plotlyjs()
    subject = Subject(Model(denoiser, Unconditional(), Identity((1, 8, 8))), lambda name: nullcontext())
    home = Store(tmp_path / "run")
    start = time.process_time()
    records = frontier.run(
        subject, Measure(scorer, reference), home, {"data": "digits", "split": "train", "images_seen": 0}
    )
    verdicts.write_verdicts(home, records)
    page.write_page(home.directory / page.PAGE, [page.page_run("run", home.directory)])
    whole = time.process_time() - start
    added = sum(clock.seconds for clock in clocks.values())
    share = added / (whole - added)
    parts = ", ".join(f"{name} {clock.seconds:.2f} s" for name, clock in clocks.items())
    print(f"\n{len(records)} cells: {whole:.1f} s, of which {added:.2f} s are added ({share:.1%}): {parts}")
    assert len(records) == 13
    assert all(clock.seconds > 0 for clock in clocks.values())
    assert share <= 0.05


def megabytes(*tensors):
    return sum(one.numel() * one.element_size() for one in tensors) / 1e6


@pytest.mark.parametrize("strata", [1, 1000])
def test_influences_of_forty_cells_of_fifty_thousand_samples(strata, tmp_path):
    """Bounded by 2,048 first samples, or two of each stratum, whatever n is."""
    first = max(2048, 2 * strata)
    own = Influences(torch.randn(first), torch.randn(512), 50_000, strata)
    for number in range(40):
        kept.write(tmp_path / f"{number}.npz", {"fid": own})
    disk = sum(path.stat().st_size for path in tmp_path.glob("*.npz")) / 1e6
    memory = 40 * megabytes(own.first, own.second)
    print(f"\n40 cells, {strata} strata: {disk:.2f} MB on disk, {memory:.2f} MB in memory")
    assert disk < 0.6
    assert memory < 0.5


def test_open_cells_of_two_thousand_dimensions(tmp_path):
    """A cell that may need more samples keeps its sums and first features on disk; one alone is in memory at a time."""
    d = 2048
    sums = GaussianStatistics(d)
    for number in range(8):
        sums.update(torch.randn(512, d, generator=torch.Generator().manual_seed(number)))
    state = sums.state()
    path = tmp_path / "cell.pt"
    start = time.perf_counter()
    drawn.write(path, drawn.Drawn(4096, {}, (1, 1, 0), {}, torch.zeros(16, 3, 32, 32), state))
    written = time.perf_counter() - start
    start = time.perf_counter()
    GaussianStatistics(d).load(drawn.read(path).statistics)
    read = time.perf_counter() - start
    disk, memory = path.stat().st_size / 1e6, megabytes(*state.values())
    print(
        f"\nD = {d}: {disk:.0f} MB a cell on disk, {40 * disk / 1000:.1f} GB for 40 open ones; {memory:.0f} MB in "
        f"memory; written in {written:.2f} s, read in {read:.2f} s"
    )
    closed = drawn.Drawn(4096, {}, (1, 1, 0), {"fid": Influences(torch.randn(2048), torch.randn(512), 4096)})
    drawn.write(path, closed)
    print(f"a closed one: {path.stat().st_size / 1e3:.0f} KB")
    assert disk < 105
    assert path.stat().st_size < 30_000
