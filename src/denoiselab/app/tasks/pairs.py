"""Pairs of noise and the sample that a checkpoint makes of it, on which another model can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.app.building import checks
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.config.spelling import override
from denoiselab.app.runs.paths import short_hash
from denoiselab.app.tasks import task
from denoiselab.cleaning import path_part
from denoiselab.console import console
from denoiselab.data.array_writing import ShardWriter
from denoiselab.data.pairs import PairStore
from denoiselab.errors import BadInput
from denoiselab.from_config import with_hashes
from denoiselab.guidance import Guidance
from denoiselab.model import check_finite
from denoiselab.nodes.options import completed
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import Sampler, Tally
from denoiselab.training.interruption import Interruption


@dataclass(kw_only=True)
class WritePairs(task.Task):
    """Write pairs of noise and the sample that a deterministic sampler makes of it, to train another model on (reflow).

    The same command goes on where a stopped one was. Samples are not decoded.

    Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, algorithm 1.

    Args:
        num_samples: Number of pairs.
        batch_size: Samples a network call; it does not change the pairs beyond rounding.
        seed: Pair i is a function of (seed, i); another one than that of scores, evaluation.seed.
        guidance: Scale of the guider: of `cfg` 1 is the conditional model, 0 the unconditional one.
        images_per_shard: Pairs a file.
    """

    num_samples: int = 10000
    batch_size: int = 250
    seed: int = 1
    guidance: float = 1.0
    images_per_shard: int = 10000

    goes_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        task.check_ranges(
            num_samples=self.num_samples, batch_size=self.batch_size, images_per_shard=self.images_per_shard
        )
        task.check_seed(self.seed)
        task.check_finite(self.guidance)

    def run(self, asked: SampleSettings) -> Path:
        """Write them; returns the folder."""
        conditions = {} if asked.conditioner is None else asked.conditioner.given
        opened = task.open_checkpoint(asked, conditions)
        model, device = opened.model, opened.device
        guidance = task.guidance_for(asked, self.guidance, opened)
        sampler = task.sampler_for(asked, model, guidance)
        if sampler.stochastic or sampler.adaptive:
            kind = "adds noise of its own" if sampler.stochastic else "chooses steps by other samples of a batch, too"
            raise BadInput(f"task=pairs: {type(sampler).__name__} {kind}; use ddim, heun or another deterministic one.")
        checks.check_conditions(model)
        classes = self._classes(opened)
        model.denoiser.to(device)
        spent = Tally()
        self._drawn(torch.zeros(1, dtype=torch.int64), sampler, opened, guidance, spent)
        of = {
            "checkpoint": str(opened.path.resolve()),
            "checkpoint_sha256": opened.sha256,
            "weights": opened.weights,
            "images_seen": opened.loaded.images_seen,
            "data": opened.loaded.config["data"]["name"],
            "codec": with_hashes(completed(opened.loaded.config["codec"])),
            "sampler": asked.sampler,
            **guidance.facts,
            "conditioner": conditions,
            "seed": self.seed,
            "nfe": spent.calls,
            "network_evaluations": spent.differentiated,
            **opened.loaded.origins,
        }
        options = {"batch_size": self.batch_size, "images_per_shard": self.images_per_shard, "dtype": "float32"}
        plan = {"of": of, "n": self.num_samples, **options, "classes": classes}
        rule = f"{type(sampler).__name__.lower()}_steps{sampler.steps}"
        name = f"{rule}_{opened.weights}_seed{self.seed}_n{self.num_samples}_{short_hash(plan)}"
        out = Path(asked.out) if asked.out else opened.home / "pairs" / path_part(name)

        def variants(index: Tensor) -> list[Tensor]:
            z = Noise(self.seed, index, SAMPLING).normal(model.shape)
            return [z, self._drawn(index, sampler, opened, guidance, Tally())]

        with Interruption(f"stopped; the same command goes on in {out}.") as interruption:
            ShardWriter(PairStore, plan, variants, self.batch_size, "pairs").write(out, interruption.check)
        console().print(
            f"{self.num_samples:,} pairs, {spent.calls} network calls each, weights {opened.weights}: {out}\n"
            f"train with: {override('pairs', out)}"
        )
        return out

    def _classes(self, opened: task.Opened) -> list[int] | None:
        """Those of samples in turn; None for a model without conditions."""
        given = opened.model.conditioner
        if not given.names:
            return None
        found = given.classes_of(torch.arange(given.strata))
        if found is None or given.names != {"class_label"} or given.strata == 1:
            raise BadInput(f"task=pairs: conditions of {type(given).__name__} are not kept; only classes in turn are.")
        labels: list[int] = found.tolist()
        return labels

    def _drawn(self, index: Tensor, sampler: Sampler, opened: task.Opened, guidance: Guidance, tally: Tally) -> Tensor:
        """The samples `index` `(B,)` in the denoiser's range, on the CPU."""
        model, index = opened.model, index.to(opened.device)
        denoise = tally.counted(model.bound(index, guidance, None, tally))
        x = sampler(denoise, model.denoiser.schedule, model.shape, Noise(self.seed, index, SAMPLING))
        check_finite(x, index, type(sampler).__name__)
        return x.float().cpu().contiguous()
