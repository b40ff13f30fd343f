"""What is done to a network before it is trained, in the one order that works.

Activations that are computed again are an option of networks (`checkpoint_levels`); then blocks are compiled; then they
are sharded, block by block; then the optimizer is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from denoiselab.networks.blocks import blocks

How = Literal["off", "per_block", "whole"]


@dataclass(frozen=True)
class Compiled:
    """What the compiler has made of a network so far in this process.

    Args:
        graphs: Their number; one for each kind of block, shape, and mode.
        breaks: Reason to number of places where a graph was left for Python.
        limit: Whether the compiler gave up on a further shape or block, which then runs uncompiled.
    """

    graphs: int
    breaks: dict[str, int]
    limit: bool

    def __str__(self) -> str:
        found = f"{self.graphs} graphs, {sum(self.breaks.values())} graph breaks"
        reasons = "; ".join(f"{reason} ({number})" for reason, number in self.breaks.items())
        return (
            found
            + (f": {reasons}" if reasons else "")
            + (", and its limit of recompilations was reached, so some blocks run uncompiled" if self.limit else "")
        )


@dataclass
class Preparation:
    """Compiles a network in place, which leaves the names of its parameters.

    Args:
        compile: off; per_block: each of its `blocks`; whole: the network at once.
        backend: Of `torch.compile`.
    """

    compile: How = "off"
    backend: str = "inductor"
    _parts: list[nn.Module] = field(default_factory=list)

    def __call__(self, network: nn.Module) -> None:
        """Prepare a network; of one that was prepared before, nothing is changed.

        Raises:
            ValueError: If it has no blocks.
        """
        if self.compile == "off" or self._parts:
            return
        parts = [network] if self.compile == "whole" else blocks(network)
        if not parts:
            raise ValueError(
                f"compile=per_block: {type(network).__name__} keeps no blocks in a ModuleList; give compile=whole."
            )
        import torch._dynamo

        # All blocks of a class share one list of compiled graphs, which has room for 8 by default; the 9th block of
        # another shape would run uncompiled.
        limit = 4 * max(8, len(parts))
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, limit)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * limit)
        torch._dynamo.utils.counters.clear()
        for part in parts:
            part.compile(backend=self.backend)
        self._parts = parts

    @property
    def compiled(self) -> Compiled | None:
        """What the compiler has made; None where nothing is compiled."""
        if not self._parts:
            return None
        from torch._dynamo.utils import counters

        lost = [reason for reason in counters["unimplemented"] if "ecompile limit" in reason]
        breaks = {_short(reason): number for reason, number in counters["graph_break"].items()}
        return Compiled(counters["stats"]["unique_graphs"], breaks, bool(lost))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within it nothing is compiled: samples are as without the compiler, whatever their batch."""
        if not self._parts:
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield

    def undo(self) -> None:
        """Leave the network as it was."""
        for part in self._parts:
            part._compiled_call_impl = None
        self._parts = []


def _short(reason: str) -> str:
    """The first line of a graph break's reason."""
    return reason.strip().splitlines()[0] if reason.strip() else "no reason given"
