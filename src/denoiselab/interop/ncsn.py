"""Checkpoints of ermongroup's ncsn and ncsnv2 (`checkpoint.pth`).

Their images are in [0, 1] and enter the network as 2 x - 1; ours are in [-1, 1]. So their sigmas are doubled, and
NCSN's score, the gradient by x, is halved, in the weights of its last convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node, node
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.weights.files import as_state, read_torch
from denoiselab.interop.weights.layout import SAME, Entry, Layout, Way
from denoiselab.interop.weights.state_dicts import InteropError, State, numbers, width_of
from denoiselab.networks import NCSN, NCSNv2

# Multipliers and dilations by the number of levels: of NCSNv2, its deeper and its deepest network; NCSN uses the first.
_SIZES = {
    4: ([1, 2, 2, 2], [1, 1, 2, 4]),
    5: ([1, 2, 2, 4, 4], [1, 1, 1, 2, 4]),
    6: ([1, 2, 2, 2, 4, 4], [1, 1, 1, 1, 2, 4]),
}

# Their names of levels and of refiners; 31 is the added level of the deepest network.
_LEVELS = {4: ["1", "2", "3", "4"], 5: ["1", "2", "3", "4", "5"], 6: ["1", "2", "3", "31", "4", "5"]}
_REFINERS = {4: ["1", "2", "3", "4"], 5: ["1", "2", "3", "4", "5"], 6: ["1", "2", "31", "3", "4", "5"]}


@dataclass
class Checkpoint(Source):
    """A checkpoint of NCSN or NCSNv2, distinguished by its weights.

    Args:
        path: The file.
        image_size: Of the square images.
        sigma_begin: NCSN's largest sigma, in its units; NCSNv2's checkpoints contain their sigmas.
        sigma_end: NCSN's smallest sigma.
    """

    path: str
    image_size: int = 32
    sigma_begin: float = 1.0
    sigma_end: float = 0.01

    def read(self) -> Imported:
        path = Path(self.path).expanduser()
        content = read_torch(path)
        if not isinstance(content, list) or not 2 <= len(content) <= 5:
            raise InteropError(f"{path}: not a checkpoint of ncsn or ncsnv2, which is a list that starts with weights.")
        state = as_state(content[0], path)
        layout = ncsn_layout(state, path, self.image_size)
        averages = {}
        if len(content) == 5:
            shadow = as_state(content[4], path, "averages")
            averages["ema"] = layout.to_ours({**state, **shadow}, path)
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(state, path),
            self._schedule(state, layout, path),
            config_nodes.parameterization("score" if layout.module is NCSN else "ncsn"),
            config_nodes.denoiser(config_nodes.step_index(nearest=True, descending=True)),
            averages=averages,
            files=[path],
        )

    def _schedule(self, state: State, layout: Layout, path: Path) -> Node:
        """Their sigmas in our units, ascending."""
        if layout.module is NCSN:
            ends = {"sigma_min": 2 * self.sigma_end, "sigma_max": 2 * self.sigma_begin}
            table = config_nodes.betas("geometric", steps=layout.options["levels"], **ends)
        else:
            if "sigmas" not in state:
                raise InteropError(f"{path}: lacks 'sigmas'.")
            values = [2 * float(sigma) for sigma in numbers(state["sigmas"], "sigmas", path).flatten().flip(0)]
            table = config_nodes.betas("listed", values=values)
        return node("denoiselab.schedules.DiscreteVE", sigmas=table)


def ncsn_layout(state: Mapping[str, Tensor], where: Path, image_size: int) -> Layout:
    """The network of a state dict of theirs, from its names and shapes."""
    levels = 6 if "res31.0.conv1.weight" in state else 5 if "res5.0.conv1.weight" in state else 4
    conditional = "normalizer.embed.weight" in state
    if conditional and levels > 4:
        raise InteropError(f"{where}: NCSN's deeper network, which has other norms, is not supported.")
    channels = width_of(state, "begin_conv.weight", where, axis=1)
    options: dict[str, Any] = {
        "shape": [channels, image_size, image_size],
        "channels": width_of(state, "begin_conv.weight", where),
        "multipliers": _SIZES[levels][0],
        "dilations": _SIZES[levels][1],
    }
    if conditional:
        options["levels"] = width_of(state, "normalizer.embed.weight", where)
    module = NCSN if conditional else NCSNv2
    return Layout(module, options, _entries(module, options, levels), ignored=["sigmas"])


def _entries(module: type[NCSN] | type[NCSNv2], options: Mapping[str, Any], levels: int) -> list[Entry]:
    names = {"stem": "begin_conv", "norm": "normalizer", "head": "end_conv"}
    for level, theirs in enumerate(_LEVELS[levels]):
        for number in range(2):
            pooled = number == 0 and level > 0 and options["dilations"][level] == 1
            inner = ".conv" if pooled else ""
            for ours, name in {
                "norm_in": "normalize1",
                "conv_in": "conv1",
                "norm_out": "normalize2",
                "conv_out": f"conv2{inner}",
                "skip": f"shortcut{inner}",
            }.items():
                names[f"levels.{level}.{number}.{ours}"] = f"res{theirs}.{number}.{name}"
    for place, theirs in enumerate(_REFINERS[levels]):
        here, there = f"refiners.{place}", f"refine{theirs}"
        for number in range(2):
            names |= _units(f"{here}.adapt.{number}", f"{there}.adapt_convs.{number}", 2)
            names[f"{here}.fuse_norms.{number}"] = f"{there}.msf.norms.{number}"
            names[f"{here}.fuse_convs.{number}"] = f"{there}.msf.convs.{number}"
            names[f"{here}.chain_norms.{number}"] = f"{there}.crp.norms.{number}"
            names[f"{here}.chain_convs.{number}"] = f"{there}.crp.convs.{number}"
        names |= _units(f"{here}.units", f"{there}.output_convs", 3)
    entries = []
    for ours in Layout(module, options, ()).skeleton():
        owner, _, kind = ours.rpartition(".")
        table = owner.endswith(".table")
        theirs = names[owner.removesuffix(".table")] + (".embed" if table else "")
        halved: Way = _Halved() if module is NCSN and owner == "head" else SAME
        entries.append(Entry(ours, (f"{theirs}.{kind}",), halved))
    return entries


def _units(ours: str, theirs: str, count: int) -> dict[str, str]:
    """Their names of norms and convolutions count units and places within them from 1."""
    found = {}
    for number in range(2 * count):
        place = f"{theirs}.{number // 2 + 1}_{number % 2 + 1}"
        found[f"{ours}.norms.{number}"] = f"{place}_norm"
        found[f"{ours}.convs.{number}"] = f"{place}_conv"
    return found


class _Halved(Way):
    """Half of their tensor, which is exact in floating point."""

    def ours(self, *theirs: Tensor) -> Tensor:
        return SAME.ours(*theirs) / 2

    def theirs(self, ours: Tensor) -> tuple[Tensor]:
        return (2 * ours,)
