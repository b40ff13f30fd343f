"""The schedulers of diffusers as our schedules, parameterizations and variances, and back.

A scheduler of theirs is a schedule, a grid and a sampler. This module reads the schedule of the training;
`denoiselab.interop.diffusers.scheduler_samplers` reads sampler and grid, as options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, ScaledTime, StepIndex
from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node, node
from denoiselab.interop.diffusers.config_values import require
from denoiselab.interop.options import positive
from denoiselab.interop.weights.state_dicts import InteropError, making
from denoiselab.schedules import Level, betas
from denoiselab.variances import FixedLarge, FixedSmall, LearnedRange

# Their names of parameterizations, and ours.
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

# Their names of variances, without the suffix `_log`, to ours.
_VARIANCES = {"fixed_small": FixedSmall, "fixed_large": FixedLarge, "learned_range": LearnedRange}

# Their beta schedules given by two ends, to ours.
_BETAS: dict[str, Callable[..., Tensor]] = {
    "linear": betas.linear,
    "scaled_linear": betas.scaled_linear,
    "sigmoid": betas.sigmoid,
}

# Defaults of their classes for the betas: schedule, start and end.
_LINEAR, _SCALED, _LATER = ("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012), ("linear", 0.00085, 0.012)
DEFAULT_BETAS: dict[str, tuple[str, float, float]] = {
    **dict.fromkeys(
        (
            *("DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler"),
            *("DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler"),
            *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler"),
            *("EulerDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler"),
            *("SASolverScheduler", "UniPCMultistepScheduler"),
        ),
        _LINEAR,
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), _SCALED),
    **dict.fromkeys(
        (
            *("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
            "KDPM2DiscreteScheduler",
        ),
        _LATER,
    ),
}

_MOST_STEPS = 10**6


class Meaning(NamedTuple):
    """The meaning of a network's output, as nodes of a configuration."""

    schedule: Node
    parameterization: Node
    denoiser: Node


def from_scheduler(config: Mapping[str, Any], where: Path, outputs: int) -> Meaning:
    """The meaning of the network's output by the configuration of a scheduler."""
    kind = str(config.get("_class_name", "a scheduler without a name"))
    with making(kind, where):
        return _meaning(kind, config, outputs)


def _meaning(kind: str, config: Mapping[str, Any], outputs: int) -> Meaning:
    if kind.startswith("EDM"):
        return _edm(config)
    if kind.startswith("FlowMatch"):
        steps = float(_steps(config))
        return Meaning(
            node("denoiselab.schedules.Flow", t_min=1 / steps, t_max=1.0),
            config_nodes.parameterization("velocity"),
            config_nodes.denoiser(node("denoiselab.denoiser.ScaledTime", scale=steps)),
        )
    if kind.startswith("CogVideoX") or config.get("snr_shift_scale") not in (None, 1):
        raise InteropError(f"{kind} shifts the noise of its betas (snr_shift_scale), which is not supported.")
    if kind not in DEFAULT_BETAS and not {"beta_schedule", "trained_betas"} & config.keys():
        raise InteropError(f"{kind} states no betas; schedulers of DDPM's family, EDM's and FlowMatch's do.")
    variance = config.get("variance_type")
    name = str(variance).removesuffix("_log") if variance else ("learned_range" if outputs == 2 else None)
    if name is not None and name not in _VARIANCES:
        raise InteropError(f"variance_type={name} is not supported; supported: {', '.join(_VARIANCES)}.")
    if (name == "learned_range") != (outputs == 2):
        raise InteropError(f"variance_type={name}, but the network has {outputs} outputs per channel.")
    asked = config.get("prediction_type", "epsilon")
    if asked not in _PREDICTIONS:
        raise InteropError(f"prediction_type={asked} is unknown; known: {', '.join(_PREDICTIONS)}.")
    require(config, {"rescale_betas_zero_snr": (False, True, None)})
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    return Meaning(
        config_nodes.chain(_betas(config, DEFAULT_BETAS.get(kind, _LINEAR)), zero_terminal_snr=zero_snr),
        config_nodes.parameterization(_PREDICTIONS[asked]),
        config_nodes.denoiser(
            config_nodes.step_index(nearest=False), None if name is None else _VARIANCES[name].__name__
        ),
    )


def to_scheduler(denoiser: Denoiser) -> dict[str, Any]:
    """The configuration of the `DDPMScheduler` that equals a denoiser.

    Its step i is the level of time label i: a level of a discrete schedule; or of a continuous one with label T t, one
    of T levels, where the first is that of label 1/2, since label 0 was not trained.
    """
    schedule, label = denoiser.schedule, denoiser.time_label
    if denoiser.input_scale is not None:
        raise ValueError("denoiser.input_scale: diffusers' DDPMScheduler does not scale the network's input.")
    levels: Level
    if isinstance(label, StepIndex) and schedule.steps is not None and label.scale == 1:
        levels = schedule.nodes()
    elif isinstance(label, ScaledTime) and schedule.steps is None and label.scale >= 2:
        t = torch.arange(round(schedule.t_max * label.scale), dtype=torch.float64).clamp_min(0.5) / label.scale
        levels = schedule.level(t)
    else:
        raise ValueError(
            f"denoiser.time_label: diffusers' DDPMScheduler needs step indices, which {type(label).__name__} on "
            f"{type(schedule).__name__} does not give; denoiser=discrete and denoiser=default do."
        )
    if not bool((levels.alpha.square() + levels.sigma.square() - 1).abs().max() < 1e-6):
        raise ValueError(
            f"schedule: diffusers' DDPMScheduler needs a variance-preserving schedule; {type(schedule).__name__} is "
            "none."
        )
    snr = levels.lam.mul(2)
    # beta = 1 - alpha_t^2 / alpha_s^2, without cancellation near the data.
    log_alpha = torch.nn.functional.logsigmoid(snr)
    table = -torch.expm1(log_alpha.diff(prepend=torch.zeros(1, dtype=torch.float64)))
    kind: Any = getattr(denoiser.parameterization, "func", denoiser.parameterization)
    predictions = {f"denoiselab.parameterizations.{ours}": theirs for theirs, ours in _PREDICTIONS.items()}
    prediction = predictions.get(f"{kind.__module__}.{kind.__qualname__}")
    if prediction is None:
        allowed = ", ".join(_PREDICTIONS.values())
        raise ValueError(f"parameterization={kind.__name__}: diffusers' DDPMScheduler supports {allowed}.")
    variance = denoiser.variance
    names = {ours: theirs for theirs, ours in _VARIANCES.items()}
    if variance is not None and type(variance) not in names:
        raise ValueError(
            f"denoiser.variance={type(variance).__name__}: diffusers' DDPMScheduler supports "
            f"{', '.join(ours.__name__ for ours in names)}."
        )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(table),
        **_named(table),
        "prediction_type": prediction,
        "variance_type": "fixed_small" if variance is None else names[type(variance)],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "timestep_spacing": "leading",
        "steps_offset": 0,
    }


def _edm(config: Mapping[str, Any]) -> Meaning:
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise InteropError(f"prediction_type={config['prediction_type']} of EDM is not supported.")
    data = positive(config, "sigma_data", 0.5)
    sigma_min, sigma_max = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
    return Meaning(
        node("denoiselab.schedules.EDM", sigma_min=sigma_min, sigma_max=sigma_max),
        config_nodes.parameterization("edm", sigma_data=data),
        config_nodes.denoiser(
            node("denoiselab.denoiser.LogNoise", scale=0.25),
            input_scale=node("denoiselab.denoiser.UnitVariance", sigma_data=data),
        ),
    )


def _steps(config: Mapping[str, Any]) -> int:
    """The number of levels."""
    asked = config.get("num_train_timesteps", 1000)
    steps = int(asked)
    if steps != asked or not 2 <= steps <= _MOST_STEPS:
        raise InteropError(f"num_train_timesteps={asked}: it must be a whole number from 2 to {_MOST_STEPS}.")
    return steps


def _betas(config: Mapping[str, Any], default: tuple[str, float, float]) -> Node:
    """The node of the betas in the configuration, with the class's defaults."""
    listed = config.get("trained_betas")
    if listed is not None:
        return config_nodes.betas("listed", values=[float(beta) for beta in listed])
    kind, steps = config.get("beta_schedule", default[0]), _steps(config)
    if kind == "squaredcos_cap_v2":
        return config_nodes.betas("cosine", steps=steps, s=0.008, maximum=0.999)
    if kind not in _BETAS:
        known = ", ".join((*_BETAS, "squaredcos_cap_v2"))
        raise InteropError(f"beta_schedule={kind} is not supported; supported: {known}.")
    start, end = float(config.get("beta_start", default[1])), float(config.get("beta_end", default[2]))
    return config_nodes.betas(kind, steps=steps, start=start, end=end, per=steps)


def _named(table: Tensor) -> dict[str, Any]:
    """A table of betas by name and ends if possible, otherwise in full."""
    steps, start, end = len(table), float(f"{float(table[0]):.12g}"), float(f"{float(table[-1]):.12g}")
    for name in ("linear", "scaled_linear"):
        try:
            if torch.allclose(table, _BETAS[name](steps, start, end, per=steps), rtol=1e-9, atol=0):
                return {"beta_schedule": name, "beta_start": start, "beta_end": end}
        except ValueError:  # no such table has these ends
            continue
    if torch.allclose(table, betas.cosine(steps), rtol=1e-9, atol=0):
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"beta_schedule": "linear", "trained_betas": table.tolist()}
