"""A likelihood measured over a data set, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.data import DataSet, clean
from denoiselab.data.loading.stream import IndexStream
from denoiselab.likelihood.base import Likelihood
from denoiselab.media.figures import save
from denoiselab.model import Model
from denoiselab.noise import Noise


class Mean(NamedTuple):
    """A mean over samples and its standard error."""

    value: float
    standard_error: float


class BitsPerDim(NamedTuple):
    """A negative log-likelihood in bits/dim, or a bound on it.

    Attributes:
        total: Mean over samples.
        parts: Terms of the sum.
        nfe: Network calls a sample and repeat.
        steps: Name to `(2, T)` float64: mean over samples and standard error of a quantity of each step of a chain.
        indices: Of the samples in the data set, `(n,)`.
        each: Of the samples, `(n,)` float64, of which `total` is the mean. Models of the same data and seed share
            samples and noise, so the difference of their means has the standard error of the mean of differences.
    """

    total: Mean
    parts: Mapping[str, Mean]
    nfe: float
    steps: Mapping[str, Tensor]
    indices: Tensor
    each: Tensor


class Draws(NamedTuple):
    """Which samples of a data set are measured, and how often.

    Attributes:
        n: How many, at least 2.
        batch_size: Samples a network call.
        seed: Of the choice of samples and of all noise.
        repeats: Estimates a sample, averaged.
    """

    n: int
    batch_size: int
    seed: int
    repeats: int = 1

    def indices(self, size: int) -> Tensor:
        """Of the samples in a data set of `size`, `(n,)`."""
        return IndexStream(size, self.seed)[torch.arange(self.n)]


@torch.no_grad()
def measure(
    method: Likelihood,
    model: Model,
    data: DataSet,
    draws: Draws,
    on_call: Callable[[int], object] = lambda rows: None,
    on_batch: Callable[[int], object] = lambda size: None,
) -> BitsPerDim:
    """The likelihood of `draws.n` samples of a data set, drawn without repetition.

    The estimate of a sample is a function of (seed, its index in the set), whatever the batch. Estimates of different
    samples are independent, so the standard error covers the variance of the data and of the estimates.

    Args:
        method: A way to measure.
        model: With the weights to be measured, in evaluation mode.
        data: The samples.
        draws: Which of them, and how often each.
        on_call: Called with the number of samples of each network call; an exception stops the measurement.
        on_batch: Called with the number of samples of each finished batch.

    Raises:
        ValueError: If n < 2 or n > len(data), repeats < 1, or an estimate is not finite.
    """
    (n, _, seed, repeats), denoiser, device = draws, model.denoiser, model.device
    if not 2 <= n <= len(data):
        raise ValueError(f"n={n}: it must be at least 2, for a standard error, and at most the {len(data)} there are.")
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: it must be at least 1.")
    rows = 0

    def count(module: object, arguments: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(arguments[0])
        on_call(len(arguments[0]))

    hook = denoiser.register_forward_pre_hook(count)
    parts: dict[str, list[Tensor]] = {}
    moments: dict[str, Tensor] = {}
    try:
        for index in draws.indices(len(data)).split(draws.batch_size):
            known = clean(data, index, device)
            noise, cond = Noise(seed, index.to(device)), model.conditioner.given(known)
            estimates = [method(denoiser, known.images, noise, cond) for _ in range(repeats)]
            for name, values in _averaged([e.parts for e in estimates]).items():
                if not bool(values.isfinite().all()):
                    first = int(index[~values.isfinite()][0])
                    raise ValueError(f"sample {first}: its {name} by {type(method).__name__} is not finite.")
                parts.setdefault(name, []).append(values)
            for name, values in _averaged([e.steps for e in estimates]).items():
                sums = torch.stack((values.sum(1), values.square().sum(1)))
                moments[name] = moments[name] + sums if name in moments else sums
            on_batch(len(index))
    finally:
        hook.remove()
    whole = {name: torch.cat(values) for name, values in parts.items()}
    total = torch.stack(list(whole.values())).sum(0)
    steps = {name: _mean_of_sums(sums, n) for name, sums in moments.items()}
    means = {name: _mean(v) for name, v in whole.items()}
    return BitsPerDim(_mean(total), means, rows / (n * repeats), steps, draws.indices(len(data)), total)


def rate_distortion(result: BitsPerDim, scale: float = 1.0) -> list[dict[str, float]]:
    """The rows of a chain's progressive code, from noise to data.

    At row t the receiver has x_t, at a cost of `rate` bits/dim, and predicts x0 with a root mean square error of
    `distortion`; the next step costs `term` bits/dim. Row 0 is x0: lossless for bytes, up to the decoder's density for
    real numbers.

    Source: Ho et al., DDPM, arXiv 2006.11239, section 4.3.

    Args:
        result: Of a `ChainBound`.
        scale: Factor of `distortion`; 127.5 turns the network's range into bytes.
    """
    lam, terms, errors = (result.steps[name] for name in ("half_log_snr", "term", "squared_error"))
    rate = result.parts["prior"].value
    rows = []
    for i in reversed(range(terms.shape[1])):
        rows.append(
            {
                "t": i + 1,
                "half_log_snr": float(lam[0, i]),
                "rate": rate,
                "distortion": scale * math.sqrt(float(errors[0, i])),
                "term": float(terms[0, i]),
                "term_standard_error": float(terms[1, i]),
            }
        )
        rate += float(terms[0, i])
    return rows


def write_rate_distortion(path: Path, rows: Sequence[Mapping[str, float]], total: Mean) -> None:
    """Plot the rows of `rate_distortion`: the cost of each step, and distortion against rate."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    figure.suptitle(f"{total.value:.3f} ± {total.standard_error:.3f} bits/dim", fontsize=10)
    left, right = figure.subplots(1, 2)
    terms, errors = ([row[name] for row in rows] for name in ("term", "term_standard_error"))
    left.errorbar([row["t"] for row in rows], terms, errors, fmt=".", markersize=3, linewidth=1)
    left.set(xlabel="t", ylabel="bits/dim of the step t to t - 1", xscale="log")
    if min(terms) > 0:
        left.set_yscale("log")
    else:  # the last term is a log density for real numbers, and may be negative
        left.set_yscale("symlog", linthresh=1e-4)
    right.plot([row["rate"] for row in rows], [row["distortion"] for row in rows], marker=".", markersize=3)
    right.set(xlabel="rate (bits/dim)", ylabel="distortion (RMSE of the predicted x0)", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save(figure, path)


def _averaged(repeats: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in repeats]).mean(0).cpu() for name in repeats[0]}


def _mean_of_sums(sums: Tensor, n: int) -> Tensor:
    """Mean and standard error `(2, T)`, from the sums over n samples of values and of their squares."""
    total, squares = sums
    variance = (squares / n - (total / n).square()).clamp_min(0) * n / (n - 1)
    return torch.stack((total / n, (variance / n).sqrt()))


def _mean(values: Tensor) -> Mean:
    return Mean(float(values.mean()), float(values.std() / math.sqrt(len(values))))
