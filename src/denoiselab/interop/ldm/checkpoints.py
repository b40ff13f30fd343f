"""A `.ckpt` of CompVis' latent-diffusion or of Stable Diffusion: network, averages, first stage and text encoder.

The file has no architecture: widths follow from its shapes, and options give what does not, under the names of LDM's
YAMLs. Source of the names: `ldm/models/diffusion/ddpm.py` and `ldm/modules/ema.py` of CompVis/latent-diffusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import node
from denoiselab.interop.imported import Imported, Source, named, target
from denoiselab.interop.ldm.autoencoders import first_stage
from denoiselab.interop.ldm.conditions import conditioner_of, with_maps
from denoiselab.interop.ldm.unets import CLASS_TOKENS, unet
from denoiselab.interop.weights.files import as_state, read_safetensors, read_torch
from denoiselab.interop.weights.folders import write_model
from denoiselab.interop.weights.layout import Layout
from denoiselab.interop.weights.state_dicts import InteropError, State
from denoiselab.schedules.betas import scaled_linear

_NETWORK, _CODEC, _CONDITION = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
_AVERAGE = "model_ema."
_CODECS = {"AutoencoderKL": "KLCodec", "VQModel": "VQCodec"}


@dataclass
class Checkpoint(Source):
    """A `.ckpt`, or a `.safetensors` with the same names.

    The weights are `model.*`; the average `ema` is there if the file has `model_ema.*`.

    Args:
        path: The file.
        image_size: Side of the latents.
        linear_start: First of the betas, whose square roots are equally spaced.
        linear_end: Last of the betas.
        num_heads: Heads of each attention, if `num_head_channels` is None.
        num_head_channels: Channels of each head, if `num_heads` is None.
        timesteps: Number of betas.
        parameterization: What the network predicts.
        scale_factor: Factor on latents; that in the file counts, if it has one.
        null_class: The last row of a table of classes is the null class.
        tokenizer: Folder or id on the hub of the text encoder's tokenizer, which the file does not have; None for the
            id of the published one.

    Raises:
        ValueError: If neither or both of `num_heads` and `num_head_channels` are given, or a number is out of range.
    """

    path: str
    image_size: int
    linear_start: float
    linear_end: float
    num_heads: int | None = None
    num_head_channels: int | None = None
    timesteps: int = 1000
    parameterization: Literal["eps", "v"] = "eps"
    scale_factor: float = 1.0
    null_class: bool = True
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        heads, channels = self.num_heads, self.num_head_channels
        if (heads is None) == (channels is None):
            raise ValueError(
                f"num_heads={heads} and num_head_channels={channels}: set one of them, as in the YAML of the model; it "
                "does not follow from the weights."
            )
        for name in ("image_size", "timesteps", "num_heads", "num_head_channels"):
            if (value := getattr(self, name)) is not None and value < 1 + (name == "timesteps"):
                raise ValueError(f"{name}={value}: it must be at least {1 + (name == 'timesteps')}.")
        if not 0 < self.linear_start <= self.linear_end < 1:
            raise ValueError(
                f"linear_start={self.linear_start} and linear_end={self.linear_end}: they must be between 0 and 1, in "
                "this order."
            )
        if not 0 < self.scale_factor < float("inf"):
            raise ValueError(f"scale_factor={self.scale_factor}: it must be positive and finite.")

    def read(self) -> Imported:
        path = Path(self.path).expanduser()
        whole = _state(path)
        network, frozen, condition = (_below(whole, prefix) for prefix in (_NETWORK, _CODEC, _CONDITION))
        for prefix, part in ((_NETWORK, network), (_CODEC, frozen)):
            if not part:
                raise InteropError(f"{path}: no checkpoint of latent diffusion: no name in it begins with '{prefix}'.")
        _check_betas(whole, self.linear_start, self.linear_end, self.timesteps, path)
        fixed = {CLASS_TOKENS: condition["embedding.weight"]} if "embedding.weight" in condition else {}
        network = with_maps({**network, **fixed}, condition, path)
        layout = unet(network, path, self.image_size, self.num_heads, self.num_head_channels, self.null_class)
        codec = first_stage(frozen, path, layout.options["shape"], self._scale(whole, path))
        shape = codec.options["shape"]
        found = conditioner_of(condition, dict(layout.options), shape, path, self.tokenizer)
        averages = {
            name: layout.to_ours(with_maps({**average, **fixed}, condition, path), path)
            for name, average in _averages(whole, path).items()
        }
        options = {"steps": self.timesteps, "start": self.linear_start, "end": self.linear_end, "per": self.timesteps}
        return Imported(
            named(self.path, path),
            layout,
            layout.to_ours(network, path),
            config_nodes.chain(config_nodes.betas("scaled_linear", **options)),
            config_nodes.parameterization(self.parameterization),
            config_nodes.denoiser(config_nodes.step_index(scale=1.0), "FixedSmall"),
            conditioner=found.node,
            averages=averages,
            codec=node(f"denoiselab.frozen.{_CODECS[codec.module.__name__]}", path="", shape=shape),
            shape=shape,
            files=(path,),
            sampling=["sampler=ddim", "spacing@sampler.spacing=latent_diffusion"],
            frozen={"codec": partial(_write, codec, codec.to_ours(frozen, path)), **found.written},
        )

    def _scale(self, whole: State, path: Path) -> float:
        given = whole.get("scale_factor")
        if given is None:
            return self.scale_factor
        if given.numel() != 1 or not 0 < float(given) < float("inf"):
            raise InteropError(f"{path}: its scale_factor is no positive number.")
        return float(given)


def _state(path: Path) -> State:
    """All tensors of the file."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = read_torch(path)
    except InteropError as error:
        if "pickled objects" not in str(error):
            raise
        command = f"python -m denoiselab.interop.nvlabs.pickles --trust-pickle {path} FOLDER"
        raise InteropError(
            f"{error} If you trust its author: {command}, and import FOLDER/model.safetensors."
        ) from None
    return as_state(
        content["state_dict"] if isinstance(content, Mapping) and "state_dict" in content else content, path
    )


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _averages(whole: State, path: Path) -> dict[str, State]:
    """The network's averaged weights, if there are any: their names are those of the weights without dots."""
    if not any(name.startswith(_AVERAGE) for name in whole):
        return {}
    found: State = {}
    for name in whole:
        if name.startswith(_NETWORK):
            own = _AVERAGE + name.removeprefix("model.").replace(".", "")
            if own not in whole:
                raise InteropError(f"{path}: its averages lack '{own}'.")
            found[name.removeprefix(_NETWORK)] = whole[own]
    return {"ema": found}


def _check_betas(whole: State, start: float, end: float, steps: int, path: Path) -> None:
    """Refuse a table of betas in the file that the options do not give."""
    given = whole.get("betas")
    if given is None:
        return
    table = scaled_linear(steps, start, end, per=steps)
    if given.shape != table.shape or not torch.allclose(given.to(table), table, rtol=1e-4, atol=1e-7):
        raise InteropError(
            f"{path}: its betas are {len(given)} from {float(given[0]):.6g} to {float(given[-1]):.6g}, and "
            f"import gives {steps} from {start} to {end}; set import.timesteps, linear_start and linear_end."
        )


def _write(layout: Layout, state: State, folder: Path) -> None:
    write_model(folder, target(layout.module), layout.options, state)
