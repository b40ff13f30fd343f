"""Features on disk, for the metrics that need all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.evaluation.metrics.statistics import check_finite
from denoiselab.evaluation.ranks import gathered, is_distributed

_CHUNK = 4096  # rows sent from rank to rank at once


class FeatureFile:
    """Features in the order of samples, in an unnamed temporary file.

    The split of the samples into batches and ranks does not matter.

    Args:
        dimension: Of the features.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension, self.n = dimension, 0
        self._file = tempfile.TemporaryFile(prefix="denoiselab-features-")  # noqa: SIM115  closed with the object

    def update(self, features: Tensor) -> None:
        """Add features `(B, D)`.

        Raises:
            ValueError: If a feature is not finite.
            OSError: If the disk is full.
        """
        check_finite(features, self.n)
        self._file.write(features.to("cpu", torch.float32).contiguous().numpy().tobytes())
        self._file.flush()  # so that a full disk is an error of this call
        self.n += len(features)

    def state(self) -> dict[str, Tensor]:
        """The features, mapped from the file."""
        return {"features": self.features}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Begin with the features of a `state`.

        Raises:
            OSError: If the disk is full.
        """
        for rows in state["features"].split(_CHUNK):
            self.update(rows)

    def reduce(self, device: torch.device) -> None:
        """Append those of the other ranks to the first rank's, in the order of ranks; the rest keep their own.

        Raises:
            OSError: If the first rank's disk is full; on all ranks.
        """
        if not is_distributed():
            return
        counts = [int(count) for count in gathered(torch.tensor([self.n]), device)]
        own = self.features
        full: list[OSError | None] = [None]
        for source, count in enumerate(counts[1:], start=1):
            for start in range(0, count, _CHUNK):
                rows = min(_CHUNK, count - start)
                if dist.get_rank() == source:
                    dist.send(own[start : start + rows].to(device), 0)
                elif dist.get_rank() == 0:
                    buffer = torch.empty(rows, self._dimension, device=device)
                    dist.recv(buffer, source)
                    try:
                        if full[0] is None:
                            self.update(buffer)
                    except OSError as error:  # the others go on sending
                        full[0] = error
        dist.broadcast_object_list(full, 0)
        if full[0] is not None:
            raise full[0]

    @property
    def features(self) -> Tensor:
        """`(n, D)` float32, mapped from the file."""
        if not self.n:
            return torch.empty(0, self._dimension)
        mapped = np.memmap(self._file, np.float32, "c", shape=(self.n, self._dimension))
        return torch.from_numpy(mapped)
