"""What deciding a frontier of a trained model costs, against the fixed n that unpaired errors need.

DENOISELAB_RUN names a run of `train.py data=digits`; without it the test is skipped. Its bank, features of 20,000
samples of five samplers at 5 and 10 calls, is drawn once (10 minutes of a core) into DENOISELAB_BANK, by default a
folder of the system's temporary one. Draws of a frontier are samples of the bank with replacement, at the same indices
in all cells, so that the distances of the whole bank are the truth.

A fixed n at which the expected difference is just the critical one has the verdict in half of the draws alone, and a
decided frontier in all of them. So the fixed n is the least at which 19 of 20 draws of a frontier on unshared noise
have all of its verdicts; by pair it is that of power 0.95, (critical + 1.645)^2 (variances) / difference^2.
"""

import os
import tempfile
from pathlib import Path

import pytest
import torch

import denoiselab
from denoiselab.data import Digits
from denoiselab.evaluation import DomainClassifier, Workspace
from denoiselab.evaluation.feature_contracts import FEATURES
from denoiselab.evaluation.metrics.frechet import frechet_scores, root_of
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.standing import Entrant, Standing, Stopping
from denoiselab.evaluation.verdicts import Estimate
from denoiselab.evaluation.verdicts.compare import BETTER, compare
from denoiselab.evaluation.verdicts.sequential import planned_looks, simulated_multiple
from denoiselab.model import Drawing

pytestmark = pytest.mark.benchmark

SAMPLERS, BUDGETS, SIZE, PART = ("ancestral", "ddim", "dpmpp_2m", "heun", "unipc"), (5, 10), 20_000, 2_000
CELLS = [(name, budget) for budget in BUDGETS for name in SAMPLERS]
MOST, DRAWS = 16_384, 40


def drawn_bank(run, folder):
    """Features `(20000, 64)` of each cell, and of the training images; what is on disk is not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    extractor = DomainClassifier().extractor(frozenset({FEATURES}), train, held_out, Workspace(folder, shown=False))
    model = denoiselab.load(run)
    schedule = model.denoiser.schedule
    bank = []
    for name, budget in CELLS:
        sampler = denoiselab.sampler(name)
        drawing = Drawing(sampler, 0, sampler.steps_for(budget, schedule))
        parts = []
        for start in range(0, SIZE, PART):
            path = folder / f"{name}-{budget}-{start}.pt"
            if not path.is_file():
                batches = torch.arange(start, start + PART).split(250)
                torch.save(torch.cat([extractor(model.draw(i, drawing)[0])[FEATURES] for i in batches]), path)
            parts.append(torch.load(path))
        bank.append(torch.cat(parts).double())
    images = torch.arange(len(train)).split(500)
    return bank, torch.cat([extractor(train.stored(i))[FEATURES] for i in images]).double()


def statistics(features, kept=2048):
    out = GaussianStatistics(features.shape[1], kept=kept)
    out.update(features)
    return out


@pytest.fixture(scope="module")
def bank():
    """Features of each cell, the moments of the data and the root of their covariance."""
    if not (run := os.environ.get("DENOISELAB_RUN")):
        pytest.skip("DENOISELAB_RUN=<run of digits> is not given")
    folder = Path(os.environ.get("DENOISELAB_BANK", Path(tempfile.gettempdir()) / "denoiselab-bank"))
    features, data = drawn_bank(run, folder)
    reference = statistics(data).compute()
    return features, reference, root_of(reference)


def estimate(cell, sums, bank, *, paired=True):
    at_n, infinite = frechet_scores(sums, *bank[1:])
    kept = at_n.influences if paired else None
    return Estimate(
        str(cell), at_n.value, at_n.standard_error, sums.n, kept, True, CELLS[cell][1], infinite.value,
        infinite.standard_error,
    )  # fmt: skip


def decided(bank, looks, seed):
    """A frontier that is drawn until it is decided."""
    features = bank[0]
    index = torch.randint(SIZE, (looks[-1],), generator=torch.Generator().manual_seed(seed))
    entrants = [Entrant(f"{name}@{budget}", f"{name} at {budget}", budget) for name, budget in CELLS]
    standing, sums = Standing.at_start(len(CELLS), looks), [GaussianStatistics(64) for _ in CELLS]
    while standing.open:
        n, estimates = looks[standing.taken], []
        for cell in standing.open:
            sums[cell].update(features[cell][index[standing.n[cell] : n]])
            estimates.append(estimate(cell, sums[cell], bank))
        standing.take(estimates, entrants, Stopping(0.05, looks[-1]))
    return standing


def stated(standing):
    """Verdicts of the best cell of each budget on the others, with the samples of both cells: {(best, other): n}."""
    out = {}
    for budget in BUDGETS:
        best, *others = sorted(
            (i for i, cell in enumerate(CELLS) if cell[1] == budget), key=standing.losses.__getitem__
        )
        out |= {(best, other): int(standing.decisions.n[best, other]) for other in others
                if bool(standing.decisions.better[best, other])}  # fmt: skip
    return out


def share_of_fixed(bank, n, pairs, draws=20):
    """Of frontiers on unshared noise, compared as such, those that have all verdicts."""
    found = 0
    for seed in range(draws):
        rng = torch.Generator().manual_seed(1000 + seed)
        drawn = [statistics(x[torch.randint(SIZE, (n,), generator=rng)]) for x in bank[0]]
        both = compare([estimate(cell, sums, bank, paired=False) for cell, sums in enumerate(drawn)])
        found += all(both.verdict(*pair) == BETTER for pair in pairs)
    return found / draws


def test_a_decided_frontier_of_five_samplers_spends_a_fifth_and_is_seldom_wrong(bank):
    truth = [frechet_scores(statistics(x, SIZE), *bank[1:]) for x in bank[0]]
    loss = torch.tensor([infinite.value for _, infinite in truth])
    psi = torch.stack([at_n.influences.first.double() for at_n, _ in truth])
    own = psi.var(1)
    looks = planned_looks(64, MOST)
    runs = [decided(bank, looks, seed) for seed in range(DRAWS)]
    verdicts = [standing.decisions.better.nonzero().tolist() for standing in runs]
    wrong = [sum(bool(loss[j] >= loss[k]) for j, k in one) for one in verdicts]
    spent = sum(sum(standing.n) for standing in runs) / DRAWS
    ode = [i for i, (name, _) in enumerate(CELLS) if name != "ancestral"]
    spent_ode = sum(standing.n[i] for standing in runs for i in ode) / DRAWS
    decisions = [stated(standing) for standing in runs]
    pairs = sorted({pair for one in decisions for pair in one if sum(pair in other for other in decisions) > DRAWS / 2})
    critical = simulated_multiple(own.diag(), [1000], 0.05)
    print(
        f"\n{sum(map(bool, wrong))} of {DRAWS} frontiers and {sum(wrong)} of {sum(map(len, verdicts))} verdicts wrong"
    )
    for j, k in pairs:
        mean = sum(found := [one[j, k] for one in decisions if (j, k) in one]) / len(found)
        half = float(critical**2 * (own[j] + own[k]) / (loss[j] - loss[k]) ** 2)
        most = half * ((critical + 1.645) / critical) ** 2
        paired = float(((own[j] + own[k]) / (psi[j] - psi[k]).var()).sqrt())
        print(
            f"{CELLS[j]} before {CELLS[k]}: {mean:.0f} samples; unpaired, fixed: {most:.0f} ({most / mean:.1f} times), "
            f"for half of the verdicts {half:.0f} ({half / mean:.1f}); unpaired error {paired:.2f} times the paired one"
        )
    for fixed in range(4000, 17_000, 2000):
        share = share_of_fixed(bank, fixed, pairs)
        print(f"fixed n = {fixed}, unpaired: all verdicts in {share:.2f} of 20 draws")
        if share >= 0.95:
            break
    ratio, of_ode = fixed * len(CELLS) / spent, fixed * len(ode) / spent_ode
    print(
        f"spent {spent:.0f} of {fixed * len(CELLS)}: {ratio:.1f} times fewer; cells of ODE solvers {of_ode:.1f} times"
    )
    assert sum(map(bool, wrong)) <= 4
    assert min(ratio, of_ode) >= 5
