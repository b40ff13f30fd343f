import pytest
import torch

from denoiselab.evaluation.standing import ALWAYS_VALID, SIMULATED, Entrant, Standing, Stopping
from denoiselab.evaluation.verdicts import Estimate, Influences

LOOKS = [256, 512, 1024]
NAMES = ["a@5", "b@5", "a@10", "b@10"]
COSTS = [5, 5, 10, 10]
ENTRANTS = [Entrant(name, f"{name[0]} at NFE {name[2:]}", cost) for name, cost in zip(NAMES, COSTS, strict=True)]


def draws(n=LOOKS[-1], cells=4, common=0.9, seed=0):
    """Losses of samples that have much in common, `(cells, n)`, of mean 0."""
    rng = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, generator=rng, dtype=torch.float64)
    own = torch.randn(cells, n, generator=rng, dtype=torch.float64)
    return common**0.5 * shared + (1 - common) ** 0.5 * own


def estimates(standing, samples, means, lower=True, failed=(), costs=COSTS):
    n, out = standing.looks[standing.taken], []
    for cell in standing.open:
        x = samples[cell, :n] + means[cell]
        influences = Influences(x - x.mean(), torch.empty(0), n)
        value, error = float(x.mean()) if lower else -float(x.mean()), float(x.std() / n**0.5)
        one = Estimate(NAMES[cell], value, error, n, influences, lower, costs[cell], value, error)
        out.append(None if cell in failed else one)
    return out


def run(samples, means, stopping=None, looks=LOOKS, standing=None, stop=99, entrants=ENTRANTS, **options):
    standing = standing or Standing.at_start(len(means), looks)
    while standing.open and stop:
        standing.take(estimates(standing, samples, means, **options), entrants, stopping or Stopping())
        stop -= 1
    return standing


@pytest.mark.parametrize("lower", [True, False])
def test_samples_go_to_cells_whose_verdict_is_open(lower):
    standing = run(draws(), [3.0, 4.0, 1.0, 1.0], lower=lower)  # the last two differ by nothing
    assert standing.n == [256, 256, 1024, 1024]
    assert standing.reasons(ENTRANTS) == [
        "decided", "surely worse than a at NFE 5", "undecided after 1024", "undecided after 1024",
    ]  # fmt: skip
    ((j, k, bound),) = standing.undecided(ENTRANTS)
    assert (j, k) == (2, 3)
    difference = float((draws()[2] - draws()[3]).mean())
    error = float((draws()[2] - draws()[3]).std()) / 32
    assert bound == pytest.approx(abs(difference) + standing.multiple * error)
    assert standing.losses[0] == pytest.approx(3 + float(draws()[0, :256].mean()))


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_is_decided_at_the_first_look_at_which_its_difference_is_beyond_the_boundary(seed):
    samples = draws(seed=seed)
    standing = run(samples, [2.0, 3.0, 1.0, 1.06])
    assert 2.57 < standing.multiple < 2.96  # of one look, and of three independent ones
    differences = samples[3] - samples[2] + 0.06
    beyond = [n for n in LOOKS if differences[:n].mean().abs() > standing.multiple * differences[:n].std() / n**0.5]
    assert standing.n[2:] == [min([*beyond, 1024])] * 2
    assert standing.reasons(ENTRANTS)[3] == ("surely worse than a at NFE 10" if beyond else "undecided after 1024")


def test_a_stopped_frontier_that_is_read_again_ends_with_the_same_verdicts():
    samples, means = draws(seed=5), [2.0, 2.05, 1.0, 1.06]
    whole = run(samples, means)
    standing = None
    for _ in range(len(LOOKS)):
        standing = run(samples, means, standing=standing, stop=1)
        standing = Standing.read(standing.state())
    assert standing.state() == whole.state()


def test_cells_that_are_dearer_and_worse_get_no_more_samples():
    standing = run(draws(), [1.0, 1.0, 2.0, 2.0])
    assert standing.n == [1024, 1024, 256, 256]
    assert [reason[:12] for reason in standing.reasons(ENTRANTS)[2:]] == ["surely worse"] * 2


@pytest.mark.parametrize("gain", [0.001, -0.001])
def test_a_cell_alone_at_its_budget_is_drawn_whichever_side_its_noise_is_on(gain):
    samples = draws()
    samples -= samples.mean(1, keepdim=True)
    standing = run(samples[[0, 2]], [1.0, 1.0 - gain], entrants=ENTRANTS[1:3], costs=COSTS[1:3])
    assert standing.n == [1024, 1024]
    assert standing.reasons(ENTRANTS[1:3]) == ["undecided after 1024"] * 2


@pytest.mark.parametrize("boundary", [SIMULATED, ALWAYS_VALID])
def test_one_cell_is_decided_at_the_first_look(boundary):
    standing = run(draws()[:1], [1.0], Stopping(boundary=boundary))
    assert (standing.n, standing.reasons(ENTRANTS[:1])) == ([256], ["decided"])


def test_a_failed_cell_is_out():
    standing = run(draws(), [3.0, 4.0, 1.0, 1.0], failed=[3])
    assert standing.reasons(ENTRANTS)[2:] == ["decided", "failed"]
    assert standing.n == [256] * 4
    assert run(draws(), [3.0] * 4, failed=range(4)).reasons(ENTRANTS) == ["failed"] * 4


def test_the_same_samples_are_decided_at_the_first_look():
    samples = draws()
    standing = run(samples[[0, 1, 2, 2]], [3.0, 4.0, 1.0, 1.0])
    assert standing.n == [256] * 4
    assert standing.reasons(ENTRANTS)[2:] == ["decided", "decided"]


def test_an_always_valid_frontier_goes_on_where_more_samples_are_allowed():
    stopping = Stopping(max_samples=512, boundary=ALWAYS_VALID)
    samples = draws()
    for part in samples.split(256, dim=1):
        part -= part.mean(1, keepdim=True)
    means = [3.0, 4.0, 1.0, 1.075]  # 3.8 standard errors at 512, 5.4 at 1024
    short = run(samples, means, stopping, LOOKS[:2])
    assert short.reasons(ENTRANTS)[2:] == ["undecided after 512"] * 2
    short.extend(LOOKS, ENTRANTS)
    assert short.open == [2, 3]
    longer = run(samples, means, stopping, standing=short)
    assert longer.n == [256, 256, 1024, 1024]
    assert longer.tightest == 128
    assert longer.reasons(ENTRANTS)[3] == "surely worse than a at NFE 10"
    decided = longer.state()
    longer.extend([*LOOKS, 2048], ENTRANTS)
    assert longer.open == []
    assert longer.state()["decisions"] == decided["decisions"]


def test_scores_without_a_standard_error_are_refused():
    standing = Standing.at_start(2, LOOKS)
    bare = [Estimate(name, 1.0, None, 256) for name in NAMES[:2]]
    with pytest.raises(ValueError, match=r"stop=decided: .* no standard error"):
        standing.take(bare, ENTRANTS[:2], Stopping())
