"""The solver's error and the model's apart: the statistics, and splits of models whose ODE has a known solution."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import scipy.linalg
import torch
import torch.distributed as dist
from configurations import build
from ranks import on_ranks

from denoiselab.analytic import GaussianDenoiser
from denoiselab.evaluation import Control, Frontier, Measure, Store, Subject, error_split
from denoiselab.evaluation.error_split import ErrorSplit
from denoiselab.evaluation.fine_runs import features_of
from denoiselab.evaluation.metrics.frechet import frechet_scores, root_of
from denoiselab.evaluation.metrics.statistics import GaussianStatistics, Moments
from denoiselab.evaluation.report import error_picture
from denoiselab.evaluation.verdicts import error_split as verdicts
from denoiselab.exact_models import exact
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import DDIM, Ancestral, DPMSolverPP, RhoRK, UniPC
from denoiselab.samplers.spacing import Asinh
from denoiselab.samplers.thresholding import Clip
from denoiselab.samplers.unipc import BH2
from denoiselab.schedules import VPLinear

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_a_distance_has_the_standard_error_of_the_delta_method():
    rho = verdicts.distance(torch.tensor([1.0, 4.0], dtype=F64))
    assert rho.value == pytest.approx(math.sqrt(2.5))
    assert rho.standard_error == pytest.approx(math.sqrt(4.5) / (2 * math.sqrt(2.5) * math.sqrt(2)))
    assert verdicts.distance(torch.zeros(3, dtype=F64)) == (0, 0)
    assert verdicts.distance(torch.ones(1, dtype=F64)) == (1, None)
    draws = normal(400, 200).square()
    found = [verdicts.distance(row) for row in draws]
    spread = torch.tensor([one.value for one in found]).std()
    assert sum(one.standard_error for one in found) / 400 == pytest.approx(float(spread), rel=0.1)


def test_the_order_is_exact_for_a_power_law_and_its_standard_error_holds():
    base, steps = normal(50).square() + 0.1, [5, 10, 20, 40]
    exact_order = verdicts.fitted_order([base / s**3 for s in steps], steps)
    assert exact_order.value == pytest.approx(1.5)
    assert exact_order.standard_error == pytest.approx(0, abs=1e-12)  # the same samples in all cells
    found = []
    for seed in range(300):
        common = normal(200, seed=seed)
        cells = [(common + 0.5 * normal(200, seed=1000 + 4 * seed + k)).square() / s**2 for k, s in enumerate(steps)]
        found.append(verdicts.fitted_order(cells, steps))
    spread = float(torch.tensor([one.value for one in found]).std())
    assert sum(one.standard_error for one in found) / 300 == pytest.approx(spread, rel=0.12)
    assert sum(one.value for one in found) / 300 == pytest.approx(1, abs=4 * spread / math.sqrt(300))


def test_an_order_is_not_fitted_to_what_the_fine_runs_do_not_resolve():
    one, steps = torch.ones(9, dtype=F64), [5, 10, 20]
    cells = [one * 4, one, one * 0.9]  # the last is the error of the fine run
    assert verdicts.fitted_order(cells, steps, apart=0.32).value == pytest.approx(1)
    assert verdicts.fitted_order(cells, steps).value < 0.6
    assert verdicts.fitted_order(cells, steps, apart=0.4) is None
    assert verdicts.fitted_order(cells[:1], steps[:1]) is None


def frechet(p, q):
    """Of moments with divisor n, by scipy's root of a matrix."""
    (m, a), (k, b) = ((x.mean(0), torch.cov(x.T, correction=0).numpy()) for x in (p, q))
    root = scipy.linalg.sqrtm(a @ b).real
    return float((m - k).square().sum()) + float((a + b - 2 * root).trace())


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_bounds_the_bures_metric_between_two_sets(seed):
    reference = normal(60, 4, seed=seed) @ normal(4, 4, seed=seed + 10)
    fine = normal(40, 4, seed=seed + 20) @ normal(4, 4, seed=seed + 30)
    cell = fine + 0.3 * normal(40, 4, seed=seed + 40)
    rho = verdicts.distance(verdicts.squares(cell, fine)).value
    of_cell, of_fine, between = frechet(cell, reference), frechet(fine, reference), frechet(cell, fine)
    assert abs(math.sqrt(of_cell) - math.sqrt(of_fine)) <= math.sqrt(between) <= rho
    assert abs(of_cell - of_fine) <= verdicts.frechet_bound(rho, of_fine)
    shifted = fine + torch.tensor([3.0, 0, 0, 0], dtype=F64)  # a shift is the optimal map: equality
    assert math.sqrt(frechet(shifted, fine)) == pytest.approx(3, abs=1e-6)
    assert verdicts.distance(verdicts.squares(shifted, fine)).value == pytest.approx(3)


def test_paths_are_interpolated_by_cubics():
    lam = torch.tensor([-4.0, -2.5, -1.0, 0.5, 1.0, 3.0], dtype=F64)
    at = torch.tensor([-4.0, -3.1, 0.2, 2.9, 3.0], dtype=F64)
    cubic = lambda x: torch.stack((x**3 - 2 * x, 5 - x**2), 1)  # noqa: E731
    assert torch.allclose(verdicts.interpolated(lam, cubic(lam), at), cubic(at))
    errors = []
    for count in (20, 40):
        knots = torch.linspace(0, 3, count + 1, dtype=F64)
        x = torch.linspace(0.3, 2.7, 97, dtype=F64)
        errors.append(float((verdicts.interpolated(knots, knots.sin()[:, None], x)[:, 0] - x.sin()).abs().max()))
    assert errors[0] / errors[1] > 14  # order 4


def test_parts_of_a_score_and_advice():
    clear = verdicts.split(8.0, [3.0, 3.2], 0.3)
    assert clear == ((3.0, 3.2), (4.8, 5.0), 0.3, True)
    assert verdicts.advice(clear) == "take more steps"
    assert verdicts.advice(verdicts.split(5.0, [3.0, 3.2], 0.3)) == "train longer"  # resolved, but the smaller part
    assert not verdicts.split(3.5, [3.0, 3.2], 0.3).resolved  # within two standard errors
    assert not verdicts.split(3.3, [3.0, 3.2], 0.01).resolved  # within the range of the fine runs
    assert verdicts.split(2.0, [3.0, 3.2], 0.1).resolved  # a coarse solver can undo error of the model
    assert verdicts.split(3.1, [3.0, 3.2], None).resolved is False


def test_what_follows_the_ode_is_declared():
    assert all(s.follows_ode for s in (DDIM(), DPMSolverPP(), RhoRK(), UniPC()))
    assert not any(s.follows_ode for s in (DDIM(eta=0.5), Ancestral(), DDIM(threshold=Clip())))
    assert all(build("sampler", name).follows_ode for name in ("ode_adaptive", "reverse_diffusion_ode", "plms"))
    assert not any(build("sampler", name).follows_ode for name in ("ddpm", "dpmpp_2m_sde", "annealed_langevin"))


D = 3
GRID = Asinh()
COVARIANCE = torch.diag(torch.tensor([1.0, 0.3, 0.05], dtype=F64))
DATA = GaussianDenoiser(torch.tensor([0.5, -1.0, 0.0], dtype=F64), COVARIANCE)


class Gaussian:
    """Points scored by the Fréchet distance to the data distribution itself."""

    name, metric, fingerprint = "points", "fd_points", "0" * 64
    lower_is_better = {"fd_points": True, "fd_points_infinity": True}  # noqa: RUF012
    split, facts, description = "train", {}, ""

    def statistics(self, start=0, strata=1):
        return GaussianStatistics(D, start=start, strata=strata)

    def features(self, samples):
        return samples

    def scores(self, statistics, reference):
        found = frechet_scores(statistics, reference, root_of(reference))
        return dict(zip(self.lower_is_better, found, strict=True))


def frontier(samplers, nfe, count=400):
    given = {name: {} for name in samplers}
    return Frontier(samplers, given, VPLinear(), nfe, {}, count, 100, 0, ["raw"])


def fine_frontier(nfe=96):
    return frontier({"unipc": UniPC(GRID, coefficients=BH2()), "heun": RhoRK(GRID)}, [nfe])


class Counted(GaussianDenoiser):
    calls = 0

    def __call__(self, x, level, /):
        Counted.calls += len(x)
        return super().__call__(x, level)


def split(directory, samplers, nfe, fine=None, samples=200, closed=DATA):
    model = exact(closed, VPLinear())
    moments = Moments(10**6, DATA.mean, COVARIANCE)._asdict()
    reference = SimpleNamespace(**moments, fingerprint="1" * 64)
    subject, measure = Subject(model, lambda name: nullcontext()), Measure(Gaussian(), reference)
    protocol = {"data": "gaussian", "images_seen": 0, "split": "train"}
    control, fine, own = Control(shown=False), fine or fine_frontier(), frontier(samplers, nfe)
    records = own.run(subject, measure, Store(directory), protocol, control=control)
    store = Store(directory / error_split.FOLDER)
    fine_records = fine.run(subject, measure, store, protocol, control=control)
    return ErrorSplit(own, fine, samples, Store(directory)).run(subject, measure, records, fine_records, control)


def test_solvers_of_a_known_ode_have_their_order_and_the_exact_model_no_error(tmp_path):
    samplers = {"ddim": DDIM(GRID), "heun": RhoRK(GRID), "ancestral": Ancestral(GRID)}
    content = split(tmp_path, samplers, [15, 31, 63], fine_frontier(255))
    (group,) = content["groups"]
    assert content == json.loads((tmp_path / "error_split.json").read_text())
    assert group["orders"]["ddim"]["value"] == pytest.approx(1, abs=0.06)
    assert group["orders"]["heun"]["value"] == pytest.approx(2, abs=0.15)
    assert set(group["orders"]) == {"ddim", "heun"}
    high = group["model_error"][1]
    assert abs(high) < 4 * group["fine"][0]["standard_error"]  # no error of the model
    at_n = [record["score"] for record in Store(tmp_path / error_split.FOLDER).read().values()]
    assert max(at_n) - min(at_n) <= group["bound"]
    cells = {(cell["sampler"], cell["nfe"]): cell for cell in group["cells"]}
    start, *_, there, _ = UniPC(GRID).grid(VPLinear(), 255)  # the last noisy level, too, is the fine run's
    for nfe in (15, 63):
        x = start.sigma * Noise(0, torch.arange(200), SAMPLING).normal((D,), F64)
        truth = DATA(DATA.flow(x, start, there), there).x0  # every sampler ends with one prediction of x0
        found = exact(DATA, VPLinear()).sample(DDIM(GRID), 200, steps=nfe)
        rho = float((found.double() - truth).square().sum(1).mean().sqrt())
        assert cells["ddim", nfe]["distance"] == pytest.approx(rho, rel=0.02)
    paired, alone = cells["heun", 63]["solver_part_standard_error"], cells["heun", 63]["standard_error"]
    assert cells["heun", 63]["paired"]
    assert paired < alone / 3  # on the same noise
    assert cells["ddim", 15]["resolved"]
    stochastic = cells["ancestral", 15]
    assert "distance" not in stochastic
    assert "diversity" in stochastic["reason"]
    assert stochastic["solver_part"][0] == pytest.approx(stochastic["score"] - high)


def test_the_error_by_level_is_that_of_the_path(tmp_path):
    (group,) = split(tmp_path, {"ddim": DDIM(GRID)}, [8])["groups"]
    (cell,) = group["cells"]
    levels = DDIM(GRID).grid(VPLinear(), 8)
    x = levels[0].sigma * Noise(0, torch.arange(64), SAMPLING).normal((D,), F64)
    states = []
    DDIM(GRID).run(DATA, VPLinear(), levels, x, Noise(0, torch.arange(64)), on_step=states.append)
    inner = [moment for moment in states if not moment.level.is_end]
    assert [lam for lam, _ in cell["by_level"][:-1]] == pytest.approx([float(m.level.lam) for m in inner], abs=1e-4)
    for moment, (_, deviation) in zip(inner, cell["by_level"], strict=False):
        off = moment.x - DATA.flow(x, levels[0], moment.level)
        scale = moment.level.alpha.square() + moment.level.sigma.square()
        assert deviation == pytest.approx(float((off.square().mean() / scale).sqrt()), rel=0.03, abs=2e-4)
    assert cell["by_level"][-1][0] is None  # clean data
    worst = cell["worst"]
    assert len(worst) == len(set(worst)) == 16
    assert (tmp_path / cell["picture"]).is_file()
    error_picture.write(tmp_path / error_picture.NAME, [group])
    assert (tmp_path / error_picture.NAME).stat().st_size > 10_000


def test_a_cell_and_a_fine_run_are_drawn_once(tmp_path):
    closed = Counted(DATA.mean, COVARIANCE)
    first = split(tmp_path, {"ddim": DDIM(GRID)}, [4], fine_frontier(20), closed=closed)
    Counted.calls = 0
    assert split(tmp_path, {"ddim": DDIM(GRID)}, [4], fine_frontier(20), closed=closed) == first
    assert Counted.calls == 0
    damaged = next((tmp_path / "error_split").glob("cell_*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert split(tmp_path, {"ddim": DDIM(GRID)}, [4], fine_frontier(20), closed=closed) == first
    assert Counted.calls == 4 * 200  # that cell again, and nothing else
    other = split(tmp_path, {"ddim": DDIM(GRID)}, [4], fine_frontier(30), closed=closed)
    assert [group["fine"][0]["nfe"] for group in other["groups"]] == [30, 20]  # the former fine runs' are kept
    assert other["groups"][1] == first["groups"][0]


def _on_rank(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    split(path / "two", {"ddim": DDIM(GRID)}, [4, 8], fine_frontier(60))
    dist.destroy_process_group()


def test_ranks_share_the_samples(tmp_path):
    alone = split(tmp_path / "one", {"ddim": DDIM(GRID)}, [4, 8], fine_frontier(60))["groups"][0]
    on_ranks(_on_rank, (tmp_path,), 2)
    both = error_split.read(tmp_path / "two")["groups"][0]
    assert both["orders"]["ddim"]["value"] == pytest.approx(alone["orders"]["ddim"]["value"], rel=1e-4)
    for one, two in zip(alone["cells"], both["cells"], strict=True):
        assert two["worst"] == one["worst"]
        assert two["distance"] == pytest.approx(one["distance"], rel=1e-4)
        assert [d for _, d in two["by_level"]] == pytest.approx([d for _, d in one["by_level"]], rel=1e-2, abs=1e-6)


def test_a_scorer_without_features_is_refused():
    with pytest.raises(ValueError, match="error_split: the extractor pixels has no features"):
        features_of(SimpleNamespace(name="pixels"), torch.zeros(2, D))
