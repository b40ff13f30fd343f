"""Samplers that change the steps of another: what they fix, their bias on a Gaussian, and the calls that they spend."""

from itertools import pairwise

import pytest
import torch
from affine_push import OPERATOR, PRIOR, ROWS, Y, errors, pushed
from oracles import F64, measured, unbounded

from denoiselab.denoiser import Prediction
from denoiselab.inverse import (
    DDNM,
    MMPS,
    AveragePool,
    Decoded,
    Mask,
    PosteriorStep,
    PublishedDiffPIR,
    PublishedDPS,
    PublishedPiGDM,
    RePaint,
    Replaced,
    Replacement,
    Resampling,
)
from denoiselab.noise import Noise
from denoiselab.samplers import (
    DDIM,
    Analytic,
    Ancestral,
    AnnealedLangevin,
    Churn,
    DPMSolverPP,
    PredictorCorrector,
    RhoRK,
    Tally,
)
from denoiselab.samplers.spacing import DenoiseToZero, UniformLogSNR, VPTime
from denoiselab.samplers.thresholding import Clip
from denoiselab.schedules import Flow, VPLinear

LINEAR = VPLinear()
ANCESTRAL = Ancestral(spacing=UniformLogSNR())
DATA = torch.randn(200, 4, dtype=F64, generator=torch.Generator().manual_seed(0))


def run(sampler, index=(0, 1, 2), steps=12, schedule=LINEAR):
    """Samples, and the levels of the network calls."""
    levels = []

    def denoise(x, level):
        levels.append(level)
        return PRIOR(x, level)

    noise = Noise(0, torch.tensor(index))
    return sampler(denoise, schedule, (4,), noise, steps=steps, dtype=F64), levels


def given(rows):
    return Y.expand(rows, -1)


# Without a return to noisier levels more steps do not help: the bias of replacement alone.
@pytest.mark.parametrize(
    ("steps", "expected"), [(50, (0.594, 1.446)), pytest.param(800, (0.567, 1.580), marks=pytest.mark.benchmark)]
)
def test_replacement_is_biased_for_any_number_of_steps(steps, expected):
    moments = pushed(lambda y: Replaced(ANCESTRAL, OPERATOR, y), steps, 2 * steps)
    assert errors(*moments) == pytest.approx(expected, abs=2e-3)


# (error of the mean, ratio of variances): resampling removes the first, steps the second.
@pytest.mark.parametrize(
    ("resample", "steps", "expected"),
    [
        (1, 50, (0.594, 1.447)),
        (5, 50, (0.244, 0.919)),
        (10, 50, (0.136, 0.876)),
        pytest.param(20, 50, (0.0715, 0.857), marks=pytest.mark.benchmark),
    ],
)
def test_repaint_removes_the_bias_of_the_mean_by_resampling(resample, steps, expected):
    moments = pushed(lambda y: RePaint(ANCESTRAL, OPERATOR, y, 1, resample), steps, 3 * steps * resample)
    assert errors(*moments) == pytest.approx(expected, abs=2e-3)


# Published PiGDM moves x as far in each step, however many there are; published DDNM, which keeps eps too, converges,
# with noise in the steps as well.
@pytest.mark.parametrize(
    ("method", "eta", "steps", "expected"),
    [
        (PublishedPiGDM(), 0.0, 50, (0.157, 0.760)),
        (PublishedPiGDM(), 0.0, 200, (0.406, 0.774)),
        pytest.param(PublishedPiGDM(), 0.0, 800, (0.755, 0.785), marks=pytest.mark.benchmark),
        (DDNM(keep_eps=True), 0.0, 50, (0.330, 1.144)),
        (DDNM(keep_eps=True), 0.0, 200, (0.108, 1.028)),
        (DDNM(keep_eps=True), 0.85, 200, (0.106, 1.006)),
        pytest.param(DDNM(keep_eps=True), 0.0, 800, (0.0305, 1.006), marks=pytest.mark.benchmark),
    ],
)
def test_methods_that_keep_eps_converge_or_get_worse(method, eta, steps, expected):
    inner = DDIM(spacing=UniformLogSNR(), eta=eta)

    def build(y):
        return lambda denoise, *args, **options: inner(method.wrap(denoise, OPERATOR, y, 0.0), *args, **options)

    assert errors(*pushed(build, steps, 2 + steps)) == pytest.approx(expected, abs=2e-3)


# (error of the mean, ratio of variances), with noise in y.
@pytest.mark.parametrize(
    ("zeta", "steps", "expected"),
    [(0.0, 100, (0.613, 2.654)), (0.3, 100, (0.446, 1.351)), (1.0, 20, (0.469, 0.657)), (1.0, 100, (0.172, 0.515))],
)
def test_new_noise_in_each_step_changes_what_diffpir_samples(zeta, steps, expected):
    method = PublishedDiffPIR(zeta=zeta)

    def build(y):
        inner = method.steps(DDIM(spacing=UniformLogSNR()), OPERATOR, y)
        return lambda denoise, *args, **options: inner(method.wrap(denoise, OPERATOR, y, 0.1), *args, **options)

    assert errors(*pushed(build, steps, 2 + steps), std=0.1) == pytest.approx(expected, abs=2e-3)


def test_a_posterior_step_moves_down_the_gradient_of_the_distance():
    inner, zeta, tally = DDIM(spacing=UniformLogSNR()), 0.3, Tally()
    sampler = PosteriorStep(inner, OPERATOR, given(3), zeta, tally)
    x, levels = run(sampler, steps=3)
    by_hand = Noise(0, torch.arange(3)).normal((4,), F64) * levels[0].sigma
    for here, there in pairwise(inner.grid(LINEAR, 3)):
        prediction = PRIOR(by_hand, here)
        jacobian = PRIOR(torch.eye(4, dtype=F64), here).x0  # of x0 in x, symmetric
        r = Y - prediction.x0[:, ROWS]
        gradient = -(r / r.norm(dim=1, keepdim=True)) @ jacobian[ROWS]
        by_hand = there.alpha * prediction.x0 + there.sigma * prediction.eps - zeta * gradient
    torch.testing.assert_close(x, by_hand, rtol=1e-10, atol=1e-10)
    assert tally.counts["gradient_evaluations"] == 9


def test_a_posterior_step_follows_a_linear_decoder_as_the_operator_that_it_makes():
    decoder = torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(1))

    class Rows(Mask):
        def forward(self, x):
            return x[:, :2]

    class Both(Rows):
        def forward(self, x):
            return super().forward(x @ decoder.T)

    operators = Decoded(Rows([1, 0]), lambda z: z @ decoder.T), Both([1, 0])
    x, y = (run(PosteriorStep(DDIM(), operator, given(3)[:, :2], 0.3), steps=3)[0] for operator in operators)
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert (x - run(DDIM(), steps=3)[0]).abs().max() > 0.1


def test_backward_passes_are_counted_in_all_evaluations_of_a_guided_call():
    tally = Tally()

    def denoise(x, level):  # guided: two evaluations a sample
        tally.add("network", 2 * len(x))
        return PRIOR(x, level)

    MMPS(2).wrap(denoise, OPERATOR, given(3), 0.1, tally)(torch.ones(3, 4, dtype=F64), LINEAR.level(torch.tensor(0.5)))
    assert (tally.counts["network_evaluations"], tally.counts["gradient_evaluations"]) == (6, 3 * 6)
    sampler = PosteriorStep(DDIM(), OPERATOR, given(3), 0.3, tally)
    sampler(denoise, LINEAR, (4,), Noise(0, torch.arange(3)), steps=2, dtype=F64)
    assert tally.counts["gradient_evaluations"] == 3 * 6 + tally.counts["network_evaluations"] - 6


# zeta is tuned for a number of steps: of 100, 250 and 1000 the second is best, as 1000 are too many.
@pytest.mark.parametrize(
    ("steps", "expected"),
    [(100, (0.626, 1.75)), (250, (0.186, 1.01)), pytest.param(1000, (0.446, 0.81), marks=pytest.mark.benchmark)],
)
def test_published_dps_depends_on_the_number_of_steps(steps, expected):
    n = 2000 if steps == 1000 else 500
    sampler = PublishedDPS(0.1).steps(ANCESTRAL, OPERATOR, given(n))
    x = sampler(PRIOR, LINEAR, (4,), Noise(0, torch.arange(n)), steps=steps, dtype=F64)
    assert errors(x.mean(0), torch.cov(x.T), std=0.1) == pytest.approx(expected, abs=0.02)


def test_a_posterior_step_differentiates_through_the_threshold():
    inner = DDIM(spacing=UniformLogSNR(), threshold=Clip(1e-3))
    x, _ = run(PosteriorStep(inner, OPERATOR, given(3), 10.0), steps=4)
    expected, _ = run(inner, steps=4)
    torch.testing.assert_close(x, expected)  # clipped everywhere, x0 does not depend on x


@pytest.mark.parametrize(
    ("method", "expected"), [(Replacement(), Replaced), (Resampling(2, 3), RePaint), (PublishedDPS(), PosteriorStep)]
)
def test_methods_make_samplers(method, expected):
    method.check(0.0)
    sampler = method.steps(DDIM(), OPERATOR, given(3))
    assert type(sampler) is expected
    assert run(sampler)[0].isfinite().all()


def test_replaced_ends_with_the_measurements():
    x, _ = run(Replaced(DDIM(), OPERATOR, given(3)))
    assert torch.equal(OPERATOR(x), given(3))


def test_replaced_ends_with_the_measured_means_of_blocks():
    pool, y = AveragePool(2).bind((1, 4, 4)), torch.linspace(-1, 1, 8, dtype=F64).reshape(2, 1, 2, 2)

    def denoise(x, level):  # of white noise
        return Prediction(level.alpha * x, level.sigma * x)

    x = Replaced(DDIM(), pool, y)(denoise, LINEAR, (1, 4, 4), Noise(0, torch.arange(2)), dtype=F64)
    torch.testing.assert_close(pool(x), y)


def test_replaced_has_the_noise_of_each_level():
    inner = Ancestral(spacing=UniformLogSNR(to_clean=False))
    mean, covariance = pushed(lambda y: Replaced(inner, OPERATOR, y), 10, 30)
    level = inner.grid(LINEAR, 10)[-1]
    assert level.sigma > 0.01
    torch.testing.assert_close(mean[ROWS], level.alpha * Y)
    torch.testing.assert_close(covariance[ROWS], level.sigma**2 * torch.eye(4, dtype=F64)[ROWS])


@pytest.mark.parametrize("build", [Replaced, lambda *parts: RePaint(*parts, 3, 2), PosteriorStep])
@pytest.mark.parametrize("inner", [DDIM(), Ancestral(), PredictorCorrector(corrector_steps=2)])
def test_batches_do_not_change_samples(build, inner):
    together, _ = run(build(inner, OPERATOR, given(3)))
    alone, _ = run(build(inner, OPERATOR, given(1)), [2])
    torch.testing.assert_close(together[2:], alone, rtol=1e-12, atol=1e-12)


# The released scheduler: t_T 250, jump_length 10, jump_n_sample 10.
def test_repaint_spends_what_the_released_scheduler_does():
    sampler = RePaint(DDIM(), OPERATOR, given(3), jump_length=10, resample=10)
    assert sampler.nfe(250, LINEAR) == 2410
    assert len(sampler.plan(LINEAR, sampler.grid(LINEAR, 250))) == 2410


def test_repaint_goes_back_as_the_released_scheduler_does():
    sampler = RePaint(DDIM(spacing=VPTime()), OPERATOR, given(3), jump_length=2, resample=2)
    _, levels = run(sampler, steps=6)
    grid = [float(level.t) for level in reversed(sampler.grid(LINEAR, 6)[:-1])]
    # By hand, for t_T 6, of its list 5 4 3 2 (3 4) 3 2 1 0 (1 2) 1 0 -1, with the returns in brackets.
    assert [grid.index(float(level.t)) for level in levels] == [5, 4, 3, 4, 3, 2, 1, 2, 1, 0]


@pytest.mark.parametrize("schedule", [LINEAR, Flow()])
@pytest.mark.parametrize(
    "inner",
    [
        DDIM(),
        DDIM(spacing=DenoiseToZero()),
        RhoRK(),
        Churn(),
        Analytic(),
        AnnealedLangevin(repeats=3),
        PredictorCorrector(corrector_steps=2),
    ],
)
def test_calls_are_counted(inner, schedule):
    inner = measured(unbounded(inner), PRIOR, DATA)
    for sampler in (
        Replaced(inner, OPERATOR, given(3)),
        RePaint(inner, OPERATOR, given(3), 2, 3),
        PosteriorStep(inner, OPERATOR, given(3), 0.01),
    ):
        for steps in (5, 8):
            x, levels = run(sampler, steps=steps, schedule=schedule)
            assert len(levels) == sampler.nfe(steps, schedule)
            assert x.isfinite().all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Replaced(DPMSolverPP(), OPERATOR, Y), "sampler=DPMSolverPP: it must be a single-step sampler."),
        (lambda: RePaint(DDIM(), OPERATOR, Y, 10, 1), "resample=1: there are no returns, so jump_length=10 says"),
        (lambda: Resampling(10, 1), "resample=1: there are no returns, so jump_length=10 says"),
        (lambda: PublishedDiffPIR().steps(Ancestral(), OPERATOR, Y), "sampler=Ancestral: the steps of DiffPIR replace"),
        (lambda: Replacement().steps(DPMSolverPP(), OPERATOR, Y), "sampler=DPMSolverPP: it must be a single-step"),
        (lambda: PublishedDPS(-1), "zeta=-1: it must be at least 0."),
        (lambda: RePaint(DDIM(), OPERATOR, Y, 0, 2), "jump_length=0: it must be at least 1."),
        (
            lambda: RePaint(DDIM(), OPERATOR, Y, 10, 2).nfe(10, LINEAR),
            "jump_length=10: the grid has 10 noisy levels, and a return must pass fewer; use more steps.",
        ),
    ],
)
def test_bad_input_is_refused(build, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        build()
