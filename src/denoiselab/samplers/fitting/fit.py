"""The fit of a solver's numbers to the end of a fine run, by gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from denoiselab.denoiser import Denoise, Denoiser, Prediction
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.samplers import DPMSolverPP, Moment
from denoiselab.samplers.fitting.solvers import Batch, Solver, mean_rms, rms
from denoiselab.samplers.fitting.stepwise import PROBES, stepwise
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.schedules import Level, Schedule

# Index of the first start, above the indices of all samples and of the starts of fitted grids.
_FIRST_INDEX = 2**40 + 2**39

# Iterations between two looks at the starts that the fit does not see, at which it may go on after a stop.
_LOOK = 10

# Half log-SNR at which a fine run starts after pure noise, at most.
_FIRST_LAM = -6.0

# Half log-SNRs that differ by no more are of one level.
_SAME = 1e-4

Bind = Callable[[Tensor], Denoise]
Check = Callable[[int], None]
State = dict[str, Any]


class Outcome(NamedTuple):
    """A fitted solver.

    Attributes:
        solver: That of the look at which it was the nearest.
        iteration: Of that look.
        distance: Its mean RMS distance to the fine run's ends, of the starts on which it was chosen.
    """

    solver: Solver
    iteration: int
    distance: float


class SolverFit:
    """Fits the coefficients of a solver and the levels that it tells the network, on fixed levels of its states.

    First each step in turn is fitted to the states of a fine run from the same x_T (`stepwise`), of each of the solvers
    to begin with; the nearest of them on half as many other starts is taken. Then all its numbers together are fitted
    to the fine run's end, by Adam. The loss is the logarithm of the mean RMS distance of the ends. Every ten iterations
    it is looked at on the other starts; the nearest is kept.

    Source: the coefficients, Shaul et al., Bespoke Non-Stationary Solvers, arXiv 2403.01329; the levels told, Tong et
    al., Learning to Discretize Denoising Diffusion ODEs, arXiv 2405.15506. The first part, the loss and Adam are ours.

    Args:
        num_samples: Starts that it is fitted on.
        iterations: Steps of Adam, whose rates fall to 0 by half a cosine.
        batch_size: Starts of an iteration.
        history: Predictions whose coefficients are fitted in each step, the newest among them.
        fine: Steps of the fine run, by DPM-Solver++(3M); about so many, as it has the solver's levels among its own.
        rate: Of Adam, for coefficients; twice that for the levels told.
        seed: Of the starts and their order.

    Raises:
        ValueError: If a number is too small.
    """

    def __init__(
        self,
        num_samples: int = 512,
        iterations: int = 300,
        batch_size: int = 64,
        history: int = 3,
        fine: int = 128,
        rate: float = 0.005,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 2), ("iterations", iterations, 0), ("batch_size", batch_size, 1),
            ("history", history, 1), ("fine", fine, 16),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}={value}: it must be at least {least}.")
        if not rate > 0:
            raise ValueError(f"rate={rate}: it must be positive.")
        self.num_samples, self.iterations, self.batch_size = num_samples, iterations, min(batch_size, num_samples)
        self.history, self.fine, self.rate, self.seed = history, fine, rate, seed

    def parts(self) -> list[tuple[Tensor, bool]]:
        """The numbers of the starts of each batch, and whether the states of the fine run are needed.

        Those that it is fitted on come first, then half as many on which it is chosen, then as many for the result.
        """
        half = -(-self.num_samples // 2)
        groups = torch.arange(self.num_samples + 2 * half).split([self.num_samples, half, half])
        return [(part, group is groups[0]) for group in groups for part in group.split(self.batch_size)]

    def calls(self, steps: int, count: int = 1) -> dict[str, int]:
        """Network calls at most of each part of the work on a number of solvers of so many steps, over all samples."""
        whole, looks = 2 * self.num_samples, -(-self.iterations // _LOOK) + 1
        between = count * (steps - 1) + 1  # levels of all solvers, of which the ends are the same
        return {
            "the fine run": whole * (between + 1) * -(-self.fine // between),  # the last interval has twice as many
            "the steps in turn": count * self.num_samples * steps * PROBES,
            "the looks": (looks + 2 + count) * self.num_samples // 2 * steps,
            "the gradients": self.iterations * self.batch_size * steps,
        }

    def batch(
        self, index: Tensor, bases: Sequence[Solver], schedule: Schedule, shape: Sequence[int], denoise: Denoise,
        check: Check = lambda rows: None, *, states: bool = True, dtype: torch.dtype = torch.float32,
    ) -> Batch:  # fmt: skip
        """Starts with the fine run from them.

        Over the limit of 8 parameters, because starts, model and numbers are all of it.

        Args:
            index: Numbers of the starts.
            bases: Have the levels.
            schedule: Their path.
            shape: Of a sample.
            denoise: The denoiser of these samples.
            check: Called after each step with the rows of its call.
            states: Whether the states at the solvers' levels are kept too.
            dtype: Of the samples.
        """
        wanted = union(bases)
        levels, places = through(wanted, schedule, -(-self.fine // (len(wanted) - 1)))
        rule = DPMSolverPP(UniformLogSNR(), len(levels) - 1, order=3, published=False)
        noise = Noise(self.seed, _FIRST_INDEX + index)
        kept = [noise.normal(shape, dtype) * float(levels[0].sigma)]

        def on_step(moment: Moment) -> None:
            check(len(moment.x))
            if states and moment.number in places:
                kept.append(moment.x)

        end = rule.run(denoise, schedule, levels, kept[0], noise, on_step=on_step)
        return Batch(index, kept if states else [kept[0], end])

    def __call__(
        self, bases: Sequence[Solver], schedule: Schedule, bind: Bind, batches: Sequence[Batch],
        check: Check = lambda rows: None, state: State | None = None,
        keep: Callable[[State], None] = lambda state: None,
    ) -> Outcome:  # fmt: skip
        """The nearest solver found.

        Args:
            bases: Solvers to begin with, of as many steps, with the same first and last level.
            schedule: Their path.
            bind: The denoiser of samples `(B,)`; memory is bounded if it is of a model that is `Recomputed`.
            batches: The starts, in the order of `parts`.
            check: Called after each run with the rows of its calls; an exception stops the fit.
            state: As `keep` was given it, to go on from; None to begin.
            keep: Called with plain containers of tensors after each look.
        """
        fitting, choosing = self.split(batches)[:2]
        if state is None:
            state = self._begin(bases, schedule, bind, batches, check)
            keep(state)
        base = bases[state["base"]]
        free = [state[name].clone().requires_grad_() for name in ("asked", "coefficients")]
        shape = base.coefficients.shape
        mask = torch.ones(shape, dtype=torch.float64).tril(1)
        mask[:, self.history + 1 :] = 0
        ends = [
            float(schedule.level(torch.tensor(t, dtype=torch.float64)).lam) for t in (schedule.t_max, schedule.t_min)
        ]
        optimizer = torch.optim.Adam([{"params": free[:1], "lr": 2 * self.rate}, {"params": free[1:], "lr": self.rate}])
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.iterations))
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
            cosine.load_state_dict(state["cosine"])
        for iteration in range(state["done"], self.iterations):
            batch = self._batch(fitting, iteration)
            optimizer.zero_grad()
            solver = base._replace(asked=free[0], coefficients=free[1])
            loss = rms(solver.end(bind(batch.numbers), schedule, batch.x), batch.end).mean().log()
            loss.backward()
            free[1].grad = (free[1].grad if free[1].grad is not None else torch.zeros(shape)) * mask
            nn.utils.clip_grad_norm_(free, 1.0)
            optimizer.step()
            cosine.step()
            free[0].data.clamp_(max(ends[0], -100.0), ends[1])
            check(len(batch.x) * len(free[0]))
            done = iteration + 1
            if done % _LOOK == 0 or done == self.iterations:
                asked, coefficients = (one.detach().clone() for one in free)
                now = base._replace(asked=asked, coefficients=coefficients)
                distance = mean_rms(now, schedule, bind, choosing, check)
                if distance < state["best"][0]:
                    state["best"] = (distance, done, asked, coefficients)
                state |= {"done": done, "asked": asked, "coefficients": coefficients}
                state |= {"optimizer": optimizer.state_dict(), "cosine": cosine.state_dict()}
                keep(state)
        distance, iteration, asked, coefficients = state["best"]
        return Outcome(base._replace(asked=asked, coefficients=coefficients), iteration, distance)

    def _begin(
        self, bases: Sequence[Solver], schedule: Schedule, bind: Bind, batches: Sequence[Batch], check: Check
    ) -> State:
        """The state before the first iteration."""
        fitting, choosing = self.split(batches)[:2]
        tried = [bases[0]]
        for one in bases:
            places = _at(one.levels, union(bases))
            own = [batch._replace(states=[batch.states[place] for place in places]) for batch in fitting]
            tried.append(stepwise(one, schedule, bind, own, self.history, check))
        distances = [mean_rms(one, schedule, bind, choosing, check) for one in tried]
        least = distances.index(min(distances))
        asked, coefficients = tried[least].asked, tried[least].coefficients
        best = (distances[least], 0, asked, coefficients)
        return {"base": max(0, least - 1), "asked": asked, "coefficients": coefficients, "best": best, "done": 0}

    def split(self, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch], list[Batch]]:
        """The starts for fitting, for choosing and for the result."""
        half = -(-self.num_samples // 2)
        first, second = -(-self.num_samples // self.batch_size), -(-half // self.batch_size)
        return [*batches[:first]], [*batches[first : first + second]], [*batches[first + second :]]

    def _batch(self, fitting: Sequence[Batch], iteration: int) -> Batch:
        """The starts of an iteration: in each pass over all of them they are in a new order."""
        size, per_pass = self.batch_size, self.num_samples // self.batch_size
        generator = torch.Generator().manual_seed(self.seed + iteration // per_pass)
        order = torch.randperm(self.num_samples, generator=generator)
        rows = order[iteration % per_pass * size :][:size]
        columns = zip(*((one.numbers, one.x, one.end) for one in fitting), strict=True)
        index, x, end = (torch.cat(column)[rows.to(column[0].device)] for column in columns)
        return Batch(index, [x, end])


def union(bases: Sequence[Solver]) -> list[Level]:
    """The levels of all of some solvers, once each, the noisiest first."""
    out: list[Level] = []
    for level in sorted((level for base in bases for level in base.levels), key=lambda level: float(level.lam)):
        if not out or float(level.lam) - float(out[-1].lam) > _SAME:
            out.append(level)
    return out


def _at(levels: Sequence[Level], among: Sequence[Level]) -> list[int]:
    """The places of levels in a union that has them."""
    return [sum(float(one.lam) <= float(level.lam) + _SAME for one in among) - 1 for level in levels]


def through(levels: Sequence[Level], schedule: Schedule, steps: int) -> tuple[list[Level], set[int]]:
    """Levels of a fine run that has given ones among its own, and their places.

    Between two of them there are so many steps, equal in log-SNR, and twice as many from the last noisy one to the
    schedule's last before clean data; fewer where a step would be less than an eighth of the mean, as after a very
    small step the differences of a multistep rule are mostly rounding.
    """
    last = float(schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64)).lam)
    least = (last - max(_FIRST_LAM, float(levels[0].lam))) / (8 * steps * len(levels))
    out, places = [levels[0]], {0}
    for here, there in pairwise(levels):
        low = float(here.lam) if here.alpha > 0 else min(_FIRST_LAM, float(there.lam) - 1)
        high = last if there.sigma == 0 else float(there.lam)
        if high - low > _SAME:
            count = max(1, min(2 * steps if there.sigma == 0 else steps, int((high - low) / least)))
            inner = torch.linspace(low, high, count + 1, dtype=torch.float64)
            inner = inner[int(here.alpha > 0) : len(inner) - int(there.sigma > 0)]
            out += schedule.at(inner).unbind() if len(inner) else []
        out.append(there)
        places.add(len(out) - 1)
    return out, places


class Recomputed(Denoiser):
    """A denoiser whose activations are not stored for the backward pass, but computed again.

    Args:
        denoiser: The denoiser.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        nn.Module.__init__(self)
        self.inner, self.schedule = denoiser, denoiser.schedule

    def forward(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Prediction:
        """As the denoiser's."""

        def call(x: Tensor) -> Prediction:
            # A level keeps what it has computed: another one, so that the second pass computes it too.
            out: Prediction = self.inner(x, replace(level), cond)
            return out

        out: Prediction = checkpoint(call, x, use_reentrant=False, preserve_rng_state=False)
        return out
