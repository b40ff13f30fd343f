"""Every sampler of conf/sampler is held to what it declares: order, network calls, adaptive, stochastic, its ends.

No sampler is named here: a new YAML is found, and one that cannot be held to an order says so itself (`no_order`).
"""

import copy
import functools
import shutil

import configurations
import pytest
import torch
from configurations import build, names
from convergence import errors, gaussian, slope, weak_errors
from oracles import F64, flow_map, measured, mixture, unbounded

from denoiselab import samplers
from denoiselab.noise import Noise
from denoiselab.samplers import count_calls
from denoiselab.schedules import VPLinear

VP, INSIDE = VPLinear(), VPLinear()
INSIDE.t_max, INSIDE.t_min = VP.time_of(torch.tensor([-2.0, 2.0], dtype=F64)).tolist()


@functools.cache
def sampler_of(conf, name):
    """A sampler as it is shipped in a folder of configurations, for data that are no pixels."""
    sampler = unbounded(build("sampler", name))
    if isinstance(sampler, samplers.Analytic):
        x0 = 0.7 + 0.4 * Noise(9, torch.arange(200)).normal((1,), F64)
        sampler.moments = measured(sampler, gaussian(), x0)
    return sampler


def own_grid(sampler):
    """The noisy levels of the sampler's own grid, between half log-SNRs of -2 and 2."""
    return lambda schedule, count: [level for level in sampler.grid(INSIDE, count) if not level.is_end]


def has_its_order(sampler):
    """Of the ODE along the flow, of tolerances, or weak: whichever it declares."""
    if sampler.order is None:
        assert sampler.no_order
        return
    if sampler.adaptive:
        assert adaptive_order(sampler) >= sampler.order - 0.3
        return
    if sampler.stochastic:
        for most in (128, 512, 1024):  # strong noise takes many steps to show its order
            counts = [most // 4, most // 2, most]
            found = weak_errors(sampler, counts, own_grid(sampler))
            if found[-1] < 1e-12 or slope(counts, found) >= sampler.order - 0.15:
                return
    else:
        most = 192 * (1 if sampler.order < 3 else 2 if sampler.order < 5 else 4) // sampler.calls_per_step
        counts = [most // 4, most // 2, most]
        to_clean = sampler.spacing.to_clean
        found = errors(sampler, own_grid(sampler), counts, to_clean)
    print(type(sampler).__name__, sampler.order, round(slope(counts, found), 2), found)
    assert slope(counts, found) >= sampler.order - 0.15


def adaptive_order(sampler):
    """Of the errors against the calls, as tolerances fall: the last four of as many as 800 calls allow."""
    start, calls, found = torch.tensor([[0.8]], dtype=F64), [], []
    levels = sampler.grid(VP)
    noisy = [level for level in levels if not level.is_end]
    for digits in range(2, 12):
        own, denoise = copy.copy(sampler), count_calls(mixture())
        own.rtol = own.atol = 10.0**-digits
        x = own.run(denoise, VP, noisy, start, Noise(0, torch.arange(1)))
        found.append(float((x[:, 0] - flow_map(mixture(), start[:, 0], noisy[0], noisy[-1])).abs()))
        calls.append(denoise.calls)
        if calls[-1] > 800:
            break
    order = slope(calls[-4:], found[-4:])
    print(type(sampler).__name__, sampler.order, round(order, 2), calls, found)
    return order


def spends_its_calls(sampler):
    """And knows them before, unless it is adaptive."""
    for steps in (1, 2, 3, 8):
        denoise = count_calls(mixture())
        sampler(denoise, VP, (1,), Noise(0, torch.arange(3)), steps=steps, dtype=F64)
        if sampler.adaptive:
            with pytest.raises(ValueError, match="chooses its own steps"):
                sampler.nfe(steps, VP)
        else:
            assert denoise.calls == sampler.nfe(steps, VP)


def draws_noise_if_stochastic(sampler):
    """From one x_T, runs of two seeds part; and a run is repeated by its seed, to the bit."""
    start = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    a, b, again = (
        sampler(mixture(), VP, (1,), Noise(seed, torch.arange(5)), steps=5, start=start, dtype=F64)
        for seed in (0, 1, 0)
    )
    assert torch.equal(a, again)
    assert (not torch.equal(a, b)) == sampler.stochastic


def ends_on_the_data(sampler):
    """What is deterministic lands where the exact flow does, from x_T to clean data or the last noisy level."""
    if sampler.stochastic:
        return  # the distribution of what it draws is tested with those of its kind
    levels = sampler.grid(VP, None if sampler.adaptive else max(100, sampler.steps))
    noise = Noise(0, torch.arange(64))
    start = levels[0].sigma * noise.normal((1,), F64)
    x = sampler.run(mixture(), VP, levels, start, noise)
    assert (x[:, 0] - flow_map(mixture(), start[:, 0], levels[0], levels[-1])).abs().median() < 0.03


CLAIMS = [has_its_order, spends_its_calls, draws_noise_if_stochastic, ends_on_the_data]


def held(name):
    """All claims of a sampler."""
    for claim in CLAIMS:
        claim(copy.copy(sampler_of(configurations.CONF, name)))


@pytest.mark.parametrize("name", names("sampler"))
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_sampler_is_what_it_declares(name, claim):
    claim(copy.copy(sampler_of(configurations.CONF, name)))


class WrongOrder(samplers.DDIM):
    order = 4


class WrongWeakOrder(samplers.Ancestral):
    order = 2


class WrongCalls(samplers.DDIM):
    calls_per_step = 2


class NotDeterministic(samplers.Ancestral):
    stochastic = False


class NoReason(samplers.DDIM):
    order = None


class WrongAdaptiveOrder(samplers.AdaptiveODE):
    order = 8


@pytest.mark.parametrize(
    "lie", [WrongOrder, WrongWeakOrder, WrongCalls, NotDeterministic, NoReason, WrongAdaptiveOrder]
)
def test_a_new_file_with_a_false_claim_is_found_out(lie, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(configurations.CONF, conf)
    steps = "" if issubclass(lie, samplers.AdaptiveODE) else "steps: 10\n"
    (conf / "sampler" / "new.yaml").write_text(
        f"defaults:\n  - /spacing@spacing: uniform_log_snr\n  - _self_\n_target_: {__name__}.{lie.__name__}\n{steps}"
    )
    before = names("sampler")
    monkeypatch.setattr(configurations, "CONF", conf)
    monkeypatch.setenv("DENOISELAB_ALLOW", f"{__name__}.")
    assert set(names("sampler")) - set(before) == {"new"}
    with pytest.raises(AssertionError):
        held("new")


def test_a_true_claim_of_a_new_file_holds():
    held("ddim")
