"""What is done to a network before it is trained, in the one order that works.

Activations that are computed again are an option of networks (`checkpoint_levels`); then blocks are compiled; then they
are sharded, block by block; then the optimizer is made.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from denoiselab.codecs import ReconstructionLoss
from denoiselab.errors import BadInput
from denoiselab.networks.base import blocks
from denoiselab.objectives import Objective, RepresentationAlignment
from denoiselab.trained import FirstStage, Trained
from denoiselab.trained.half import HalfSteps

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
    """Compiles a network in place, which leaves the names of its parameters, and has it compute in another precision.

    Args:
        compile: off; per_block: each of its `blocks`; whole: the network at once.
        half: Take steps in bfloat16 of weights in float32, by `HalfSteps`.
        backend: Of `torch.compile`.
    """

    compile: How = "off"
    half: bool = False
    backend: str = "inductor"
    _steps: HalfSteps | None = None
    _parts: list[nn.Module] = field(default_factory=list)

    def __call__(self, network: nn.Module) -> None:
        """Prepare a network; of one that was prepared before, nothing is changed.

        Raises:
            BadInput: If it has no blocks.
        """
        if self.half and self._steps is None:
            self._steps = HalfSteps(network)
        if self.compile == "off" or self._parts:
            return
        parts = [network] if self.compile == "whole" else blocks(network)
        if not parts:
            raise _no_blocks(network)
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

    def begin_step(self) -> None:
        """Called before a forward pass of the training."""
        if self._steps is not None:
            self._steps.begin()

    def end_step(self) -> None:
        """Called after the backward pass, and where one does not come."""
        if self._steps is not None:
            self._steps.end()

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
        self.end_step()
        for part in self._parts:
            part._compiled_call_impl = None
        self._parts = []


def check_compile(how: str, model: Trained, objective: Objective | ReconstructionLoss) -> None:
    """Refuse `compile=how` where the compiler is missing or cannot compile what is trained.

    Raises:
        BadInput: If so.
    """
    if how == "off":
        return
    option = f"compile={how}"
    network = model.trained if isinstance(model, FirstStage) else model.trained.get_submodule("network")
    if isinstance(model, FirstStage) and how == "whole":
        raise BadInput(f"{option}: a first stage is no single call of a network; give compile=per_block or off.")
    if how == "per_block" and not blocks(network):
        raise BadInput(
            f"{option}: {type(network).__name__} keeps no blocks in a ModuleList; give compile=whole or off."
        )
    if getattr(objective, "second_derivatives", False):
        raise BadInput(
            f"{option}: objective {type(objective).__name__} differentiates the network twice, which compiled networks "
            "do not offer; give compile=off."
        )
    if isinstance(objective, RepresentationAlignment):
        raise BadInput(f"{option}: objective=repa reads a layer inside the network; give compile=off.")
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            raise BadInput(f"{option}: torch's compiler needs the package triton on a GPU; install it, or compile=off.")
    elif not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise BadInput(f"{option}: torch's compiler needs a C++ compiler on the CPU; install g++, or give compile=off.")


def _no_blocks(network: nn.Module) -> BadInput:
    return BadInput(
        f"compile=per_block: {type(network).__name__} keeps no blocks in a ModuleList; give compile=whole or off."
    )


def _short(reason: str) -> str:
    """The first line of a graph break's reason."""
    return reason.strip().splitlines()[0] if reason.strip() else "no reason given"
