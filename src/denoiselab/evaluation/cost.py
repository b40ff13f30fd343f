"""What a sample costs in time and in floating-point operations, measured while it is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.guidance import Auto, Guidance
from denoiselab.model import Drawing, Model, Steer
from denoiselab.noise import Noise
from denoiselab.samplers import OnStep, Tally
from denoiselab.samplers.observers import Moment
from denoiselab.schedules import Level

_REPEATS = 3


class Instant:
    """A point in time: of the CPU's clock, or an event of CUDA's stream, which the host does not wait for."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = None
        self._clock = 0.0
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        else:
            self._clock = perf_counter()

    def since(self, start: Instant) -> float:
        """Milliseconds from `start`."""
        if self._event is None:
            return 1000 * (self._clock - start._clock)
        self._event.synchronize()
        return float(start._event.elapsed_time(self._event))


@dataclass
class _Batch:
    size: int
    start: Instant
    calls: list[tuple[Instant, Instant]] = field(default_factory=list)
    sampled: Instant | None = None  # the end of the last step
    drawn: Instant | None = None

    def milliseconds(self, steps: int) -> tuple[list[float], float, float, float]:
        """Of each call, of a step without its calls, of decoding, and of all."""
        assert self.sampled is not None
        assert self.drawn is not None
        calls = [after.since(before) for before, after in self.calls]
        rule = max(0.0, self.sampled.since(self.start) - sum(calls)) / steps
        return calls, rule, self.drawn.since(self.sampled), self.drawn.since(self.start)


class Stopwatch:
    """Times the network calls, the rule and the decoding of the batches of a cell; it adds no network call.

    Args:
        device: Of the sampling.
        of_call: From `cost_of_call`; may be empty.
    """

    def __init__(self, device: torch.device, of_call: Mapping[str, Any]) -> None:
        self._device, self._of_call = device, dict(of_call)
        self._batches: list[_Batch] = []

    def draw(self, model: Model, index: Tensor, drawing: Drawing, on_step: OnStep) -> tuple[Tensor, Tally]:
        """`model.draw`, timed."""
        batch = _Batch(len(index), Instant(self._device))

        def steer(denoise: Denoise, index: Tensor, tally: Tally) -> Denoise:
            own = denoise if drawing.steer is None else drawing.steer(denoise, index, tally)
            return _Timed(own, batch.calls, self._device)

        def noted(moment: Moment) -> None:
            batch.sampled = Instant(self._device)
            on_step(moment)

        out = model.draw(index, dataclasses.replace(drawing, steer=steer), noted)
        batch.drawn = Instant(self._device)
        self._batches.append(batch)
        return out

    def record(self, steps: int, counts: Mapping[str, float]) -> dict[str, float]:
        """Fields of a cell of `steps` steps and the counts of `Tally` a sample: medians over its batches of full size.

        Milliseconds of a batch of `timed_batch` samples: `call_ms`, a network call, the mean of a batch's calls, of
        which guidance may double some; `rule_ms`, a step without its calls; `decode_ms`, the decoding. `ms_per_sample`
        is all of it a sample, `flops_per_sample` that of the calls.
        """
        size = max((batch.size for batch in self._batches), default=0)
        whole = [batch.milliseconds(steps) for batch in self._batches if batch.size == size and batch.calls]
        out = {key: value for key, value in self._of_call.items() if key != "flops"}
        if "flops" in self._of_call:
            flops = self._of_call["flops"]
            out["flops_per_sample"] = round(sum(counts[what] * flops[what] for what in counts if what in flops))
        if whole:
            calls, rule, decoding, total = zip(*whole, strict=True)
            out |= {
                "timed_batch": size,
                "call_ms": _rounded(median(map(mean, calls))),
                "rule_ms": _rounded(median(rule)),
                "decode_ms": _rounded(median(decoding)),
                "ms_per_sample": _rounded(median(total) / size),
            }
        return out


class _Timed:
    """A denoiser whose calls are timed."""

    def __init__(self, denoise: Denoise, calls: list[tuple[Instant, Instant]], device: torch.device) -> None:
        self._denoise, self._calls, self._device = denoise, calls, device

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        before = Instant(self._device)
        prediction = self._denoise(x, level)
        self._calls.append((before, Instant(self._device)))
        return prediction


@torch.no_grad()
def cost_of_call(
    model: Model, index: Tensor, guidance: Guidance = Guidance(), steer: Steer | None = None
) -> dict[str, Any]:
    """Cost of a network call, measured apart from a cell, on the same batch and after a warm-up.

    `flops`: floating-point operations a sample by the counts of records (`Tally.counts`): of an evaluation of each
    network, and of what further guidance adds to a call (`nfe`); from calls of a single sample: convolutions, matrix
    products and attention, a multiplication and its addition counted as two. With guidance or a classifier also
    `evaluation_ms`: milliseconds of one evaluation alone, of the batch.

    Args:
        model: In evaluation mode.
        index: Of the batch `(B,)`, on the model's device.
        guidance: Scale and rule.
        steer: Further guidance; None for none.
    """
    from denoiselab.networks.summary import Operations  # slow to import

    level = model.denoiser.schedule.at(torch.zeros((), dtype=torch.float64))
    x = Noise(0, index).normal(model.shape)

    def operations(guidance: Guidance, steer: Steer | None = None) -> int:
        own = model.bound(index[:1], guidance)
        own = own if steer is None else steer(own, index[:1], Tally())
        with Operations() as counter:
            own(x[:1], level)
        return int(counter.total)

    flops = {"network_evaluations": operations(Guidance())}
    if steer is not None:
        flops["nfe"] = operations(Guidance(), steer) - flops["network_evaluations"]
    if isinstance(guidance.guider, Auto):
        alone = dataclasses.replace(guidance.guider, interval=None, scale_schedule=None, rescale=0.0)
        flops["guide_evaluations"] = operations(Guidance(0.0, alone))
    out: dict[str, Any] = {"flops": flops}
    if guidance.acts or steer is not None:
        plain = model.bound(index)
        out["evaluation_ms"] = _rounded(median(_timed(lambda: plain(x, level), model.device)))
    return out


def _timed(call: Callable[[], object], device: torch.device) -> Sequence[float]:
    moments = [Instant(device)]
    for _ in range(_REPEATS):
        call()
        moments.append(Instant(device))
    return [after.since(before) for before, after in pairwise(moments)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
