"""Calls each part once, as training does, and refuses one that returns something else than its contract says."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.codecs import Autoencoder, Codec
from denoiselab.conditioners import Conditioner
from denoiselab.console import console
from denoiselab.denoiser import Denoiser, second_time
from denoiselab.errors import BadInput
from denoiselab.networks.conditioning import Conditioning, listed
from denoiselab.nodes.contracts import described
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import Objective
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.schedules import Level

# Samples of a rehearsal.
_BATCH = 2


def check_condition(conditioner: Conditioner, cond: Any) -> None:
    """Refuse what a conditioner returned for a batch of 2."""
    option = f"conditioner={type(conditioner).__name__}"
    if not isinstance(cond, Conditioning):
        raise BadInput(f"{option}: its methods must return a Conditioning; found {found(cond)}.")
    given = {name: value for name, value in cond._asdict().items() if value is not None}
    if given.keys() != conditioner.names:
        raise BadInput(
            f"{option}: must return the fields that it has in `names`, {listed(conditioner.names)}; found "
            f"{listed(given)}."
        )
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (_BATCH,):
            raise BadInput(
                f"{option}: {name} must be a tensor with one row a sample; for 2 samples it is {found(value)}."
            )


def bound_decoding(codec: Codec, gigabytes: float | None) -> None:
    """Let a codec decode within so much memory; None for no bound.

    Raises:
        BadInput: If it is no autoencoder, or its smallest tile needs more.
    """
    if gigabytes is None:
        return
    if not isinstance(codec, Autoencoder):
        raise BadInput(f"decode_memory={gigabytes:g}: this model has no autoencoder; leave it out.")
    try:
        side = codec.decode_within(gigabytes * 1e9)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if side is not None:
        console(stderr=True).print(
            f"decode_memory={gigabytes:g}: an image needs more, so it is decoded in tiles of {side}x{side} latents, "
            "which changes it somewhat."
        )


@torch.no_grad()
def check_codec(codec: Codec, decode_memory: float | None = None) -> None:
    """Refuse a codec whose latents or samples have other shapes than it states, or that cannot decode within memory.

    Autoencoders are checked by their layers' sizes instead, which takes no pass of theirs.
    """
    bound_decoding(codec, decode_memory)
    if isinstance(codec, Autoencoder):
        return
    x, noise = torch.zeros(_BATCH, *codec.shape), Noise(0, torch.arange(_BATCH), TRAINING)
    latents = codec.encode_latents(codec.encode_pixels(x), noise.normal)
    _shaped(f"codec={type(codec).__name__}.encode_latents", latents, (_BATCH, *codec.latent_shape))
    _shaped(f"codec={type(codec).__name__}.decode", codec.decode(latents), (_BATCH, *codec.shape))


def check_objective(objective: Objective, denoiser: Denoiser, channels: int, axes: int) -> float:
    """Call an objective, and the functions that it and a denoiser are made of, on two small samples.

    Returns the network's calls for each image.

    Args:
        objective: Of the training, on the CPU; its buffers stay as they are.
        denoiser: Of the training; a small network takes the place of its own.
        channels: Of a sample.
        axes: Of a sample, with that of its channels.
    """
    schedule, objective = denoiser.schedule, copy.deepcopy(objective)
    level = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    for option, function in _functions(denoiser, objective):
        _shaped(f"{option}={described(function)}", function(level), (_BATCH,))
    option, pair = f"parameterization={described(denoiser.parameterization)}", denoiser.parameterization(level)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise BadInput(f"{option}: must return the pair (a, b) of out = a x0 + b eps; found {found(pair)}.")
    for value in pair:
        _shaped(option, value, (_BATCH,))
    outputs = 1 if denoiser.variance is None else denoiser.variance.outputs
    parts = (denoiser.parameterization, denoiser.time_label, denoiser.input_scale, denoiser.variance)
    network = _Small(outputs, second_time(denoiser.network))
    small = Denoiser(network, schedule, *parts)
    noise = Noise(0, torch.arange(_BATCH), TRAINING)
    for name, module in objective.named_modules():
        if isinstance(module, LevelDistribution):
            draw = module(schedule, noise)
            option = f"objective.{name}={type(module).__name__}"
            drawn = getattr(draw, "level", None)
            if not isinstance(drawn, Level):
                raise BadInput(f"{option}: must return a Draw with a level for each sample; found {found(draw)}.")
            _shaped(option, drawn.t, (_BATCH,))
    if objective.uses_teacher:
        objective.take_teacher(copy.deepcopy(small))
    with torch.enable_grad():
        loss = objective(small, torch.zeros(_BATCH, channels, *[1] * (axes - 1)), noise)
    option = f"objective={type(objective).__name__}"
    _shaped(option, loss, (_BATCH,), "the loss of each sample, ")
    if not loss.requires_grad:
        raise BadInput(f"{option}: its loss must be differentiable in the network's parameters; it has no gradient.")
    return network.rows / _BATCH


def found(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a tuple of {len(value)}" if type(value) is tuple else f"a {type(value).__name__}"


def _functions(denoiser: Denoiser, objective: Objective) -> Iterator[tuple[str, Any]]:
    """Functions of a level, with the options that chose them."""
    yield "denoiser.time_label", denoiser.time_label
    if denoiser.input_scale is not None:
        yield "denoiser.input_scale", denoiser.input_scale
    for name, module in objective.named_modules():
        if (weighting := getattr(module, "weighting", None)) is not None:
            yield ".".join(filter(None, ("objective", name, "weighting"))), weighting


def _shaped(option: str, value: Any, shape: Sequence[int], what: str = "") -> None:
    if not isinstance(value, Tensor) or value.shape != torch.Size(shape) or not value.is_floating_point():
        size = list(shape)
        raise BadInput(
            f"{option}: must return {what}a float tensor of shape {size} for 2 samples; found {found(value)}."
        )


class _Small(nn.Module):
    """A network of one parameter, which counts the samples of its calls."""

    def __init__(self, outputs: int, second_time: bool) -> None:
        super().__init__()
        self.rows = 0
        self.outputs, self.second_time, self.weight = outputs, second_time, nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        """Map `(B, C, *)` to `(B, outputs C, *)`."""
        self.rows += len(x)
        return torch.cat([self.weight * x] * self.outputs, dim=1)
