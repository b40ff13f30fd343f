"""Whether a training can be compiled, before it starts."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from denoiselab.codecs import ReconstructionLoss
from denoiselab.errors import BadInput
from denoiselab.networks.blocks import blocks
from denoiselab.objectives import Objective
from denoiselab.trained import FirstStage, Trained


def check(how: str, model: Trained, objective: Objective | ReconstructionLoss) -> None:
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
    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            raise BadInput(f"{option}: torch's compiler needs the package triton on a GPU; install it, or compile=off.")
    elif not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise BadInput(f"{option}: torch's compiler needs a C++ compiler on the CPU; install g++, or give compile=off.")
