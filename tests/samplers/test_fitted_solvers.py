"""Solvers whose numbers are fitted to a model: what a table can hold, and what the fit finds."""

import copy
from itertools import pairwise

import pytest
import torch
from configurations import build
from oracles import F64, mixture

from denoiselab import samplers
from denoiselab.analytic import MixtureDenoiser
from denoiselab.conditioners import ClassLabel
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.exact_models import ExactDenoiser, exact
from denoiselab.files import write_json
from denoiselab.guidance import AdaptiveProjected, Guidance, bind
from denoiselab.model import digest
from denoiselab.noise import Noise
from denoiselab.parameterizations import eps
from denoiselab.samplers.fitting import GITS, Fitted, SolverFit, solver_of
from denoiselab.samplers.fitting.fit import Recomputed, through
from denoiselab.samplers.fitting.gits import step_costs
from denoiselab.samplers.fitting.grids import Reference
from denoiselab.samplers.fitting.local_errors import shortest
from denoiselab.samplers.fitting.solvers import mean_rms, told
from denoiselab.samplers.partial import starting_at
from denoiselab.samplers.spacing import UniformLogSNR, UniformTime
from denoiselab.schedules import EDM, DiscreteVP, Flow, VPLinear

FIT = {"num_samples": 128, "iterations": 40, "batch_size": 64, "fine": 128}


def written(path, solver, **other):
    """The file of a solver."""
    rows = [row[: k + 2] for k, row in enumerate(solver.coefficients.tolist())]
    clean = solver.levels[-1].is_end
    lam = [max(float(level.lam), -100.0) for level in solver.levels[: len(rows) + (not clean)]]
    facts = {"weights": "raw", "weights_sha256": digest(ExactDenoiser(mixture(), VPLinear())), "guidance": 1.0}
    content = {"lam": lam, "to_clean": clean, "asked": solver.asked.tolist(), "coefficients": rows, **facts, **other}
    write_json(path, content)
    return Fitted(str(path))


def drawn(sampler, schedule, n=50):
    return sampler(mixture(), schedule, (1,), Noise(0, torch.arange(n)), dtype=F64)


@pytest.mark.parametrize(
    "name", ["dpmpp_2m", "dpmpp_3m", "ddim", "unipc", "ipndm", "tab", "dpm_solver_2m", "euler", "ode_euler"]
)
def test_a_table_with_the_numbers_of_a_sampler_is_that_sampler(name, tmp_path):
    for schedule in (VPLinear(), EDM(), DiscreteVP(), Flow()):
        sampler = build("sampler", name)
        sampler.steps = 6
        fitted = written(tmp_path / f"{schedule}.json", solver_of(sampler, schedule))
        assert fitted.nfe(6, schedule) == 6
        torch.testing.assert_close(drawn(fitted, schedule), drawn(sampler, schedule), rtol=1e-8, atol=1e-9)


def test_a_run_that_ends_noisy_is_a_table_too(tmp_path):
    sampler = samplers.DPMSolverPP(UniformTime(to_clean=False), 5)
    fitted = written(tmp_path / "noisy.json", solver_of(sampler, VPLinear()))
    assert not fitted.grid(VPLinear())[-1].is_end
    torch.testing.assert_close(drawn(fitted, VPLinear()), drawn(sampler, VPLinear()), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "schedule", [VPLinear(), DiscreteVP(), build("schedule", "learned")], ids=["vp", "ddpm", "own"]
)
def test_a_level_is_differentiable_in_its_log_snr(schedule):
    for lam in (-2.0, 0.3, 2.5):
        at = torch.tensor(lam, dtype=F64, requires_grad=True)
        level, h = told(schedule, at), 1e-4
        slopes = [torch.autograd.grad(value, at, retain_graph=True)[0] for value in (level.t, level.alpha, level.lam)]
        up, down = (schedule.at(torch.tensor(lam + step, dtype=F64)) for step in (h, -h))
        steps = [
            float((a - b).detach()) / (2 * h) for a, b in ((up.t, down.t), (up.alpha, down.alpha), (up.lam, down.lam))
        ]
        assert [float(one) for one in slopes] == pytest.approx(steps, rel=1e-3)


def problem(fit, steps=4):
    """Solvers to fit, what binds the model, and the starts."""
    bases = [solver_of(samplers.DPMSolverPP(UniformLogSNR(), steps), VPLinear())]
    bases.append(solver_of(samplers.DDIM(UniformTime(), steps), VPLinear()))
    model = exact(mixture(), VPLinear())
    parts = [
        fit.batch(numbers, bases, VPLinear(), (1,), mixture(), states=states, dtype=F64)
        for numbers, states in fit.parts()
    ]
    return bases, lambda numbers: bind(Recomputed(model.denoiser), *2 * [model.conditioner.sample(numbers)]), parts


def test_a_fitted_solver_ends_nearer_on_starts_that_it_was_not_fitted_to():
    fit = SolverFit(**FIT)
    bases, model, batches = problem(fit)
    found = fit(bases, VPLinear(), model, batches)
    fitting, choosing, fresh = fit.split(batches)
    assert [sum(len(one.numbers) for one in part) for part in (fitting, choosing, fresh)] == [128, 64, 64]
    before, after = (mean_rms(one, VPLinear(), model, fresh) for one in (bases[0], found.solver))
    fine = samplers.DPMSolverPP(UniformLogSNR(), 400, 3, published=False)
    exact_end = fine.run(
        mixture(), VPLinear(), fine.grid(VPLinear()), fresh[0].x, Noise(0, fresh[0].numbers)
    )  # what is called the end of the fine run is that of the ODE
    assert float((fresh[0].end - exact_end).abs().mean()) < 1e-3 * before
    assert after < before / 4
    assert found.distance == pytest.approx(mean_rms(found.solver, VPLinear(), model, choosing))


def test_a_fit_that_was_stopped_finds_the_same():
    fit, states = SolverFit(**{**FIT, "iterations": 30}), []
    bases, model, batches = problem(fit, 3)
    whole = fit(bases, VPLinear(), model, batches, keep=lambda state: states.append(copy.deepcopy(state)))
    assert [state["done"] for state in states] == [0, 10, 20, 30]
    for state in states:
        again = fit(bases, VPLinear(), model, batches, state=state)
        assert torch.equal(again.solver.asked, whole.solver.asked)
        assert torch.equal(again.solver.coefficients, whole.solver.coefficients)


def test_the_grid_on_which_the_steps_end_nearest_is_taken_wherever_it_is():
    fit = SolverFit(**{**FIT, "iterations": 0})
    bases, model, batches = problem(fit, 3)
    one, other = (fit(order, VPLinear(), model, batches) for order in (bases, bases[::-1]))
    assert one.distance == other.distance
    assert one.solver.levels is other.solver.levels


def test_recomputed_activations_give_the_same_gradient():
    denoiser = Denoiser(torch.nn.Sequential(), VPLinear(), eps, ScaledTime())

    class Net(torch.nn.Module):
        def forward(self, x, label, cond):
            return torch.sin(x * label[:, None] / 500)

    denoiser.network = Net()
    solver = solver_of(samplers.DPMSolverPP(UniformLogSNR(), 4), VPLinear())
    grads = []
    for one in (denoiser, Recomputed(denoiser)):
        free = [solver.asked.clone().requires_grad_(), solver.coefficients.clone().requires_grad_()]
        x = solver._replace(asked=free[0], coefficients=free[1]).end(one, VPLinear(), torch.linspace(-1, 1, 8)[:, None])
        grads.append(torch.autograd.grad(x.square().sum(), free))
    assert all(torch.equal(a, b) and a.abs().sum() > 0 for a, b in zip(*grads, strict=True))


def test_a_copy_of_a_guided_denoiser_has_a_memory_of_its_own():
    class Shifted(torch.nn.Module):
        def forward(self, x, label, cond):
            return x * (1 + cond.class_label[:, None])

    labels, index = ClassLabel(2), torch.arange(4)
    denoiser = Denoiser(Shifted(), VPLinear(), eps, ScaledTime())
    guidance = Guidance(3.0, AdaptiveProjected(momentum=-0.5))
    levels, x = UniformTime()(VPLinear(), 4), torch.ones(4, 1)
    runs = [bind(denoiser, labels.sample(index), labels.null(index), guidance) for _ in range(2)]
    for run in runs:
        run(x, levels[0])
    copy.copy(runs[0])(x, levels[1])
    assert torch.equal(*(run(x, levels[2]).x0 for run in runs))


def test_a_fine_run_has_the_levels_of_the_solver():
    for schedule in (VPLinear(), Flow()):
        levels = UniformTime()(schedule, 5)
        fine, places = through(levels, schedule, 7)
        assert [float(fine[place].lam) for place in sorted(places)] == [float(level.lam) for level in levels]
        assert all(a.rho > b.rho for a, b in pairwise(fine))
        near = schedule.at(levels[2].lam + 2e-4)  # of another grid
        lam = [float(level.lam) for level in through([*levels[:3], near, *levels[3:]], schedule, 7)[0][1:-1]]
        assert sum(b - a < 0.01 for a, b in pairwise(lam)) == 1


@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (samplers.Ancestral(UniformTime(), 5), "deterministic"),
        (samplers.AdaptiveODE(UniformTime()), "not adaptive"),
        (build("sampler", "heun"), "one call a step"),
        (build("sampler", "ddim", "+threshold={_target_: denoiselab.samplers.thresholding.Clip}"), "use null"),
    ],
)
def test_what_no_table_holds_is_refused(sampler, text):
    with pytest.raises(ValueError, match=text):
        solver_of(sampler, VPLinear())


def test_a_fitted_solver_refuses_other_models_runs_and_files(tmp_path):
    solver = solver_of(samplers.DPMSolverPP(UniformLogSNR(), 4), VPLinear())
    fitted = written(tmp_path / "a.json", solver)
    model = exact(mixture(), VPLinear())
    assert model.sample(fitted, 3).shape == (3, 1)
    assert fitted.steps_for(9, VPLinear()) == 4
    for text, call in (
        ("steps=5", lambda: model.sample(fitted, 3, steps=5)),
        ("nfe=3: .* takes 4", lambda: model.sample(fitted, 3, nfe=3)),
        ("own levels only", lambda: starting_at(fitted, VPLinear(), 0.5)),
        ("own levels only", lambda: fitted.plan(VPLinear(), UniformTime()(VPLinear(), 4))),
        ("noise to data only", lambda: fitted.backwards(VPLinear())),
        ("no solver", lambda: written(tmp_path / "b.json", solver, asked=[1.0])),
        ("no solver", lambda: written(tmp_path / "c.json", solver, coefficients=[[0.0, "1"]] * 4)),
        ("No such file", lambda: Fitted(str(tmp_path / "none.json"))),
        ("fitted to other weights", lambda: model.sample(written(tmp_path / "d.json", solver, weights_sha256="00"), 3)),
        ("fitted with guidance=2", lambda: model.sample(written(tmp_path / "e.json", solver, guidance=2.0), 3)),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_the_programme_of_gits_is_that_of_its_recursion():
    """V[j, k] = min over i > j of C[j, i] + gamma V[i, k - 1]: the cost of k steps from level j."""
    costs = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=F64)
    costs[torch.ones(9, 9).tril().bool()] = torch.inf
    for steps in (2, 3, 5):
        value = costs[:, -1].clone()
        for _ in range(steps - 1):
            value = (costs + 1.15 * value).min(1).values
        path = shortest(costs, steps + 1, clean=False, growth=1.15)
        assert len(path) == steps + 1
        found = sum(1.15**k * float(costs[here, there]) for k, (here, there) in enumerate(pairwise(path)))
        assert found == pytest.approx(float(value[0]))


def test_deviations_are_those_from_the_chord():
    """In the plane, from (2, 0) to the origin: the distance from the chord is the second coordinate."""
    levels = [EDM().level(torch.tensor(sigma, dtype=F64)) for sigma in (2.0, 1.0)]
    x = torch.tensor([[[2.0, 0.0]], [[1.0, 0.5]]], dtype=F64)
    x0 = torch.tensor([[[0.0, 1.0]], [[0.0, 0.2]]], dtype=F64)
    costs = step_costs(Reference(levels, x, x0, torch.zeros(1, 2, dtype=F64)), clean=True)
    assert float(costs[0, 1]) == pytest.approx(0.5 - 0.5)  # Euler ends at (1, 0.5), where the reference is
    assert costs[:, 2].tolist() == pytest.approx([1.0, 0.2])


def test_gits_finds_a_grid():
    """For a ring of eight points: on the line all points lie on the chord."""
    angles = torch.arange(8) * torch.pi / 4
    ring = MixtureDenoiser(
        torch.stack([angles.cos(), angles.sin()], 1), torch.full((8,), 0.05), torch.full((8,), 1 / 8)
    )
    sampler = samplers.DDIM(UniformLogSNR(), 6)
    grid = GITS(100, 64)(sampler, ring, VPLinear(), (2,), torch.device("cpu"), dtype=F64)
    assert len(grid.lam) == 6
    assert all(a < b for a, b in pairwise(grid.lam))
    assert grid.fitted <= grid.found < 1
    with pytest.raises(ValueError, match="gamma=0"):
        GITS(gamma=0)
