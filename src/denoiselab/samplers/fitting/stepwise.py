"""A solver fitted a step at a time to the states of a fine run, by least squares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.samplers.fitting.solvers import Batch, Solver
from denoiselab.schedules import Schedule

# Half log-SNRs by which the level told may differ: coarse ones, then between the best of them and its neighbours.
_COARSE = torch.linspace(-0.6, 0.6, 7, dtype=torch.float64)
_FINE = torch.linspace(-0.15, 0.15, 7, dtype=torch.float64)

# Network calls of a step.
PROBES = len(_COARSE) + len(_FINE)

# Share of the squares of its features that keeps a coefficient near its former value.
_TIE = 1e-4


@torch.no_grad()
def stepwise(
    base: Solver,
    schedule: Schedule,
    bind: Callable[[Tensor], Denoise],
    batches: Sequence[Batch],
    history: int,
    check: Callable[[int], None] = lambda rows: None,
) -> Solver:
    """A solver each step of which ends nearest to the fine run's state, from where the steps before it ended.

    For each of some levels told, the coefficients are those of least squares, the squares of a sample divided by its
    distance, so that their sum is nearly that of the distances; the level of the least sum is taken. The numbers are
    no optimum for the end, but early steps follow the fine run, on which the end depends without a jump, where samples
    between two modes leave a gradient of the end nothing to follow.

    Args:
        base: Gives the levels, and the numbers near which those without effect stay.
        schedule: Their path.
        bind: The denoiser of samples `(B,)`.
        batches: Starts with the states of the fine run.
        history: Predictions that a step combines.
        check: Called after each call with its rows.
    """
    asked, coefficients = base.asked.clone(), torch.zeros_like(base.coefficients)
    runs = [(bind(batch.numbers), batch.x, list[Tensor]()) for batch in batches]
    for k in range(len(asked)):
        best: tuple[float, Tensor, list[tuple[Denoise, Tensor]]] | None = None
        pure, near = bool(base.levels[k].alpha == 0), asked[k].clone()
        for offsets in (_COARSE, _FINE):
            centre = asked[k].clone()
            for offset in offsets[3:4] if pure else offsets:
                level = base.told(k, schedule, centre + offset)
                calls, parts = [], []
                for (denoise, x, past), batch in zip(runs, batches, strict=True):
                    probe = copy.copy(denoise)  # a guider's memory moves on with the level that is taken only
                    m = probe(x, level).x0
                    calls.append((probe, m))
                    parts.append((torch.stack([x, m, *past[: history - 1]], -1).flatten(1, -2), batch.states[k + 1]))
                    check(len(x))
                row = coefficients.new_tensor(base.coefficients[k, : parts[0][0].shape[-1]].tolist())
                total, row = _regressed(parts, row)
                if best is None or total < best[0]:
                    best, near = (total, row, calls), level.lam.to(near) if not pure else near
            asked[k] = near
        assert best is not None
        coefficients[k, : len(best[1])] = best[1]
        runs = [
            (probe, (torch.stack([x, m, *past[: history - 1]], -1) @ best[1].to(x)), [m, *past])
            for (probe, m), (_, x, past) in zip(best[2], runs, strict=True)
        ]
    return base._replace(asked=asked, coefficients=coefficients)


def _regressed(parts: Sequence[tuple[Tensor, Tensor]], row: Tensor) -> tuple[float, Tensor]:
    """The sum of distances of features `(B, N, P)` times a row `(P,)` float64 to targets `(B, *)`, and the row."""
    own, weights = row, [target.new_ones(len(target)) for _, target in parts]
    distances: list[Tensor] = []
    for _ in range(4):
        square, missing = torch.zeros(len(row), len(row), dtype=torch.float64), torch.zeros_like(row)
        for (features, target), weight in zip(parts, weights, strict=True):
            rest = target.flatten(1) - features @ own.to(features)
            square += torch.einsum("bnp,bnq,b->pq", features, features, weight).double().cpu()
            missing += torch.einsum("bnp,bn,b->p", features, rest, weight).double().cpu()
        row = own + torch.linalg.solve(square + _TIE * square.diagonal().clamp_min(1e-12).diag(), missing)
        distances = [
            (features @ row.to(features) - target.flatten(1)).square().mean(1).sqrt() for features, target in parts
        ]
        scale = 0.05 * torch.cat([one.cpu() for one in distances]).median() + 1e-9
        weights = [1 / (one + scale.to(one)) for one in distances]
    return float(sum(float(one.sum()) for one in distances)), row
