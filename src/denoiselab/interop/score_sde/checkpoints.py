"""yang-song/score_sde_pytorch: NCSN++, DDPM++ and DDPM from its `.pth` checkpoints.

They contain no configuration, so one of its configuration files must be named, or given in plain containers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node, node
from denoiselab.interop.imported import Imported, Source
from denoiselab.interop.score_sde.configs import CONFIGS, DDPM
from denoiselab.interop.score_sde.layout import ncsnpp_layout
from denoiselab.interop.weights.files import as_state, read_torch
from denoiselab.interop.weights.state_dicts import InteropError, State

# Entries of their state dict that are not trained: noise levels, and frequencies of Fourier features.
_UNTRAINED = ("sigmas", "all_modules.0.W")

_CHOICES = {
    "name": ("ncsnpp", "ddpm"),
    "sde": ("vesde", "vpsde", "subvpsde"),
    "embedding_type": ("fourier", "positional"),
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
}


class ScoreSDE(Source):
    """A checkpoint `checkpoint_*.pth` of NCSN++, DDPM++ or DDPM.

    Its images are in [0, 1] if `data.centered` is false, ours in [-1, 1]; its sigmas are then doubled.

    Args:
        path: The file.
        config: Name of its configuration file, such as `ve/cifar10_ncsnpp_continuous`, or the configuration itself.

    Raises:
        ValueError: If there is no such configuration, or it lacks a value or has an unknown one.
    """

    def __init__(self, path: str, config: str | Mapping[str, Any] = "ve/cifar10_ncsnpp_continuous") -> None:
        if isinstance(config, str) and config not in CONFIGS:
            raise ValueError(f"config={config}: unknown; known are {', '.join(CONFIGS)}.")
        if not isinstance(config, str):
            config = completed(config)
            check_config(config)
        self.path = Path(path).expanduser()
        self.name = config.replace("/", "-") if isinstance(config, str) else "score_sde"
        self.config = CONFIGS[config] if isinstance(config, str) else config

    def read(self) -> Imported:
        content = read_torch(self.path)
        if not isinstance(content, Mapping) or not {"model", "ema"} <= content.keys():
            raise InteropError(f"{self.path}: not a checkpoint of score_sde: it has no 'model' and 'ema'.")
        layout = ncsnpp_layout(self.config, self.path)
        state = as_state(content["model"], self.path)
        weights = layout.to_ours(state, self.path)
        average = layout.to_ours(averaged(state, content["ema"], self.path), self.path)
        schedule, parameterization, label = meaning(self.config, self.path)
        return Imported(
            name=self.name,
            layout=layout,
            weights=weights,
            schedule=schedule,
            parameterization=parameterization,
            denoiser=config_nodes.denoiser(label),
            averages={"ema": average},
            files=[self.path],
        )


def completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration, of a `ddpm` with the choices that make it an `ncsnpp`."""
    model = config.get("model")
    if not isinstance(model, Mapping) or model.get("name") != "ddpm":
        return config
    return {**config, "model": {**model, **DDPM}}


def check_config(config: Mapping[str, Any]) -> None:
    """Check that a configuration has the values used here."""
    for part, example in CONFIGS["ve/cifar10_ncsnpp_continuous"].items():
        given = config.get(part)
        for key, value in example.items():
            if not isinstance(given, Mapping) or key not in given:
                raise ValueError(f"config.{part}.{key}: missing; in their file for CIFAR-10 it is {value}.")
            allowed = _CHOICES.get(key, (given[key],))
            if given[key] not in allowed:
                raise ValueError(f"config.{part}.{key}={given[key]}: it must be one of {', '.join(map(str, allowed))}.")


def averaged(state: State, ema: Any, where: Path) -> State:
    """The state dict with its trained tensors replaced by their averages, a list in the same order."""
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    names = [name for name in state if name not in _UNTRAINED]
    shapes = [state[name].shape for name in names]
    if not isinstance(shadow, Sequence) or [getattr(tensor, "shape", None) for tensor in shadow] != shapes:
        raise InteropError(f"{where}: its averages do not match its weights.")
    return {**state, **dict(zip(names, shadow, strict=True))}


def meaning(config: Mapping[str, Any], where: Path) -> tuple[Node, Node, Node]:
    """The nodes of schedule, parameterization and time label."""
    model, sde, continuous = config["model"], config["training"]["sde"], config["training"]["continuous"]
    unit = 1.0 if config["data"]["centered"] else 2.0
    embedding, fitting = model["embedding_type"], "fourier" if sde == "vesde" and continuous else "positional"
    if embedding != fitting:  # theirs would embed log(999 t), or sigma itself
        raise InteropError(
            f"{where}: model.embedding_type={embedding} on a {sde} with training.continuous={continuous} is not "
            f"supported; {fitting} is."
        )
    if sde == "vesde":
        if not model["scale_by_sigma"]:
            raise InteropError(f"{where}: model.scale_by_sigma=false on a vesde is not supported.")
        sigmas = {"sigma_min": unit * model["sigma_min"], "sigma_max": unit * model["sigma_max"]}
        if continuous:
            schedule = node("denoiselab.schedules.VEGeometric", **sigmas)
            label = node("denoiselab.denoiser.LogNoise", scale=1.0, unit=unit)
        else:
            table = config_nodes.betas("geometric", steps=model["num_scales"], **sigmas)
            schedule = node("denoiselab.schedules.DiscreteVE", sigmas=table)
            label = config_nodes.step_index(nearest=True, descending=True)
        return schedule, config_nodes.parameterization("ncsn"), label
    if unit != 1 or model["scale_by_sigma"]:
        raise InteropError(f"{where}: a {sde} with data.centered=false, or scaled by sigma, is not supported.")
    betas = {"beta_min": model["beta_min"], "beta_max": model["beta_max"]}
    if continuous or sde == "subvpsde":
        name = {"vpsde": "VPLinear", "subvpsde": "SubVP"}[sde]
        schedule = node(f"denoiselab.schedules.{name}", **betas, t_min=1e-3)
        label = node("denoiselab.denoiser.ScaledTime", scale=999.0)
    else:
        steps = model["num_scales"]
        ends = {"start": betas["beta_min"] / steps, "end": betas["beta_max"] / steps, "per": steps}
        table = config_nodes.betas("linear", steps=steps, **ends)
        schedule = config_nodes.chain(table)
        label = config_nodes.step_index(nearest=False)
    return schedule, config_nodes.parameterization("eps"), label
