"""Time and operations of cells, by a clock that the network, the rule and the codec move on."""

import pytest
import torch
from test_frontier import Shrink, frontier, score

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import cost
from denoiselab.guidance import Auto, ClassifierFree, Guidance
from denoiselab.model import Drawing, Model
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing import UniformTime
from denoiselab.schedules import VPLinear

SHAPE = (1, 4, 4)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cost, "perf_counter", clock)
    return clock


class Works(Shrink):
    """A millisecond a row, and one product of 16 x 16 matrices."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.inner = clock, torch.nn.Linear(16, 16, bias=False)

    def forward(self, x, label, cond=None):
        self.clock.now += len(x) / 1000
        return super().forward(x, label) + 0 * self.inner(x.flatten(1)).reshape(x.shape)


class Slow(DDIM):
    clock = None

    def interior(self, schedule, levels, to_come):
        self.clock.now += 0.006 * (len(levels) - 1)  # 6 ms a step
        return super().interior(schedule, levels, to_come)


class Decodes(Identity):
    clock = None

    def decode(self, latents):
        self.clock.now += 0.004
        return super().decode(latents)


def denoiser(network):
    return Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())


def test_a_cell_has_the_time_of_a_call_of_the_rule_and_of_decoding_and_the_operations(tmp_path, clock):
    Slow.clock = Decodes.clock = clock
    codec, sampler = Decodes(SHAPE), Slow(UniformTime(), 1)
    out = frontier(samplers={"slow": sampler}, nfe=[5])
    record = score(out, tmp_path, denoiser=denoiser(Works(clock)), codec=codec)[0]
    interior = sampler.plan(VPLinear(), sampler.grid(VPLinear(), 5))
    assert len(interior) == 5
    assert (record["timed_batch"], record["call_ms"], record["decode_ms"]) == (8, 8, 4)
    # The clock moves for steps between levels that are not ends; the last one of five ends at data.
    assert record["rule_ms"] == pytest.approx(6 * 4 / 5)
    assert record["ms_per_sample"] == pytest.approx((5 * 8 + 5 * record["rule_ms"] + 4) / 8, rel=1e-3)
    assert record["flops_per_sample"] == 5 * 2 * 16 * 16
    assert "evaluation_ms" not in record  # it is that of a call


class TwoClasses(Works):
    def forward(self, x, label, cond=None):
        assert cond.class_label is not None
        return super().forward(x, label)


def test_guidance_is_two_evaluations_in_parallel(clock):
    model = Model(denoiser(TwoClasses(clock)), ClassLabel(2, dropout=0.1), Identity(SHAPE))
    index = torch.arange(6)
    guided, alone = (cost.cost_of_call(model, index, Guidance(scale)) for scale in (2.0, 1.0))
    assert guided == {"flops": {"network_evaluations": 2 * 16 * 16}, "evaluation_ms": 6}
    assert alone == {"flops": {"network_evaluations": 2 * 16 * 16}}
    watch = cost.Stopwatch(torch.device("cpu"), guided)
    _, tally = watch.draw(model, index, Drawing(DDIM(UniformTime(), 1), 0, 3, Guidance(2.0)), lambda moment: None)
    assert tally.counts == {"nfe": 18, "network_evaluations": 36}
    record = watch.record(3, {"nfe": 3, "network_evaluations": 6})
    assert (record["call_ms"], record["evaluation_ms"], record["flops_per_sample"]) == (12, 6, 3 * 4 * 16 * 16)


def test_the_time_of_a_call_is_the_mean_of_calls_with_and_without_guidance(clock):
    model = Model(denoiser(TwoClasses(clock)), ClassLabel(2, dropout=0.1), Identity(SHAPE))
    watch = cost.Stopwatch(torch.device("cpu"), {})
    first_of_three = Guidance(2.0, ClassifierFree(interval=(100, 200)))
    watch.draw(model, torch.arange(6), Drawing(DDIM(UniformTime(), 1), 0, 3, first_of_three), lambda moment: None)
    assert watch.record(3, {"nfe": 3, "network_evaluations": 4})["call_ms"] == 8  # 12, 6 and 6


def test_operations_are_those_of_the_evaluations_that_were_made(clock):
    """Of 3 steps, one is guided by a network of half the width, and a classifier is asked in all."""
    model = Model(denoiser(TwoClasses(clock)), ClassLabel(2, dropout=0.1), Identity(SHAPE))
    guide = denoiser(TwoClasses(clock))
    guide.network.inner = torch.nn.Linear(16, 8, bias=False)
    guide.network.forward = lambda x, label, cond: x + 0 * guide.network.inner(x.flatten(1)).sum()

    def steer(denoise, index, tally):
        return lambda x, level: (denoise(x, level), denoise(x, level))[1]

    of_call = cost.cost_of_call(model, torch.arange(6), Guidance(2.0, Auto(guide=guide, named="half")), steer)
    assert of_call["flops"] == {"network_evaluations": 512, "guide_evaluations": 256, "nfe": 512}
    watch = cost.Stopwatch(torch.device("cpu"), of_call)
    spent = {"nfe": 3, "network_evaluations": 3, "guide_evaluations": 1}
    assert watch.record(3, spent)["flops_per_sample"] == 3 * 512 + 256 + 3 * 512


def test_the_time_of_a_call_contains_that_of_further_guidance_and_its_counts_are_kept(clock):
    class Steered:
        def __init__(self, denoise, tally):
            self.denoise = denoise
            tally.add("classifier", 7)

        def __call__(self, x, level):
            clock.now += 0.002
            return self.denoise(x, level)

    model = Model(denoiser(Works(clock)), Unconditional(), Identity(SHAPE))
    steer = lambda denoise, index, tally: Steered(denoise, tally)  # noqa: E731
    of_call = cost.cost_of_call(model, torch.arange(6), steer=steer)
    watch = cost.Stopwatch(torch.device("cpu"), of_call)
    drawing = Drawing(DDIM(UniformTime(), 1), 0, 3, steer=steer)
    samples, tally = watch.draw(model, torch.arange(6), drawing, lambda moment: None)
    assert torch.equal(samples, model.draw(torch.arange(6), drawing)[0])
    assert tally.counts == {"nfe": 18, "network_evaluations": 18, "classifier_evaluations": 7}
    assert (watch.record(3, {"nfe": 3})["call_ms"], of_call["evaluation_ms"]) == (8, 6)


def test_batches_of_less_than_the_full_size_and_hiccups_do_not_count(clock):
    model = Model(denoiser(Works(clock)), Unconditional(), Identity(SHAPE))
    watch = cost.Stopwatch(torch.device("cpu"), {})
    for number, size in enumerate((4, 4, 4, 1)):
        if number == 1:
            clock.now += 0.5

        def slow(moment, number=number):
            clock.now += 0.5 if number == 1 else 0.0

        watch.draw(model, torch.arange(size), Drawing(DDIM(UniformTime(), 1), 0, 2), slow)
    record = watch.record(2, {"nfe": 2})
    assert (record["timed_batch"], record["call_ms"], record["rule_ms"], record["ms_per_sample"]) == (4, 4, 0, 2)
