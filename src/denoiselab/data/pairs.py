"""Pairs of noise and the sample that a model makes of it, in files, on which another model is trained (reflow)."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoiselab.data.array_shards import ArrayShards


class PairStore(ArrayShards):
    """Pairs (z, x0), float32, in the range and shape of the denoiser's data: z is the unit noise of x_T.

    Facts have `of`, plain containers: the checkpoint, sampler, guidance and seed that made them, and their cost; and
    `classes`, of which pair i has that of i modulo their number, or None.

    Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, algorithm 1.
    """

    facts_name: ClassVar[str] = "pairs.json"
    option: ClassVar[str] = "pairs"
    maker: ClassVar[str] = "python sample.py task=pairs"

    @property
    def fingerprint(self) -> str:
        """sha256 of the checksums of all shards and of the classes."""
        parts = [*(shard["sha256"] for shard in self.facts["shards"]), str(self.facts["classes"])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def taught(self) -> dict[str, Any]:
        """The record of the model that made them, as of a run's teacher."""
        of = self.facts["of"]
        own = ("checkpoint", "checkpoint_sha256", "weights", "images_seen")
        return {
            **{key: of[key] for key in own},
            "calls_per_image": 0,
            "pairs": len(self),
            "calls": len(self) * of["network_evaluations"],
            "pairs_sha256": self.fingerprint,
            **{name: of[name] for name in ("initial", "teacher") if of.get(name)},
        }

    def labels(self, index: Tensor) -> Tensor:
        """The classes `(B,)` int64 of pairs `index` `(B,)`; 0 where they have none."""
        classes = torch.tensor(self.facts["classes"] or [0])
        return classes[index % len(classes)]

    def pairs(self, index: Tensor) -> Tensor:
        """Noise and sample of pairs `index` `(B,)`, `(B, 2, *)` float32."""
        return torch.stack([self.rows(index, variant) for variant in (0, 1)], dim=1)
