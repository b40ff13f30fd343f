"""The kernel distance, by torch-fidelity, with a standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, variance

import numpy as np
from torch import Tensor

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import (
    INFLUENCES,
    double_differences,
    influences,
    second_order,
    standard_error,
    without_second_order,
)

# Samples of which the first influence is computed with all samples and data, so many of these at once.
_COLUMNS = 4096


class KernelDistance(Metric):
    """The unbiased squared MMD under (x.y / D + 1)^3 (KID with Inception-v3), a mean over random blocks.

    In double precision: in single precision rounding exceeds the distance of near sets. Source: Bińkowski et
    al., Demystifying MMD GANs, arXiv 1801.01401.

    Args:
        blocks: Number of blocks.
        block_size: Images a block, of samples and of the reference each.
        seed: Of the generator that draws the blocks.

    Raises:
        ValueError: If blocks < 2 or block_size < 2.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True
    lower_is_better: Mapping[str, bool] = {"kd": True}

    def __init__(self, blocks: int = 100, block_size: int = 1000, seed: int = 2020) -> None:
        if blocks < 2 or block_size < 2:
            raise ValueError(f"blocks={blocks}, block_size={block_size}: each must be at least 2.")
        self.blocks, self.block_size, self.seed = blocks, block_size, seed

    def check(self, n: int, what: str) -> None:
        if n < self.block_size:
            raise ValueError(
                f"{what}={n}: it must be at least block_size={self.block_size}, "
                "which evaluation.metric_options.kernel.block_size=... sets."
            )

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `kd`; its standard error is that of drawing samples, by the first ones' influence, and blocks.

        The influence of a sample is twice its mean kernel with the other samples less that with the data. Its variance
        counts that of the second order twice, whose influence is twice the kernel: a U-statistic has it once.
        """
        from torch_fidelity.metric_kid import kernel_mmd  # slow to import

        x, data = samples.outputs, reference.outputs
        rng = np.random.RandomState(self.seed)  # torch-fidelity's blocks
        values = []
        for _ in range(self.blocks):
            drawn = [part[rng.choice(len(part), self.block_size, replace=False)] for part in (x, data)]
            values.append(float(kernel_mmd(*(part.double().numpy() for part in drawn))))
        first = x[: max(INFLUENCES, 2 * samples.strata)].double()
        itself = (first.square().sum(1) / first.shape[1] + 1) ** 3
        within, between = (sum(_cubic(first, y.double()).sum(1) for y in part.split(_COLUMNS)) for part in (x, data))
        influence = 2 * ((within - itself) / (len(x) - 1) - between / len(data))
        error, kept = standard_error(influence, len(x), samples.strata), None
        if error is not None:
            second = 2 * _cubic(first, first)
            added = second_order(double_differences(second, samples.strata), len(x))
            error = math.hypot(without_second_order(error, added), math.sqrt(variance(values) / self.blocks))
            kept = influences(influence, len(x), samples.strata, second, values)
        return {"kd": Score(fmean(values), error, influences=kept)}


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
