"""A model for images of another size than those of its training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from denoiselab.app.building.rehearsal import bound_decoding
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.tasks.task import Opened
from denoiselab.codecs import Codec, Identity
from denoiselab.errors import BadInput
from denoiselab.from_config import build_model
from denoiselab.model import Model
from denoiselab.nodes.instantiate import construct


def resized(opened: Opened, size: Sequence[int], asked: SampleSettings) -> Opened:
    """A checkpoint whose model draws images of another size, with the same weights.

    Args:
        opened: The checkpoint.
        size: [H, W] of an image.
        asked: Bounds the memory of decoding.

    Raises:
        BadInput: If the network has weights for one size only, or conditions have one, or the codec's stride does not
            divide the size.
    """
    model, config = opened.model, copy.deepcopy(dict(opened.loaded.config))
    given, kind = f"task.size=[{','.join(map(str, size))}]", config["network"]["_target_"].rpartition(".")[2]
    if len(model.codec.shape) != 3:
        raise BadInput(f"{given}: it is for images; leave it out.")
    if model.conditioner.uses_images:
        raise BadInput(f"{given}: this model is conditioned on images, which have the size of its training.")
    shape = [model.codec.shape[0], *size]
    try:
        codec: Codec = Identity(shape)
        if "codec" in config:
            config["codec"] = {**config["codec"], "shape": shape}
            codec = construct(config["codec"], "codec")
        config["data"] = {**config["data"], "shape": shape}
        if "shape" in config["network"]:
            config["network"] = {**config["network"], "shape": list(codec.latent_shape)}
        denoiser = build_model(config).denoiser
    except ValueError as error:
        raise BadInput(f"{given}: {error}") from None
    weights = model.denoiser.state_dict()
    for name, tensor in denoiser.state_dict().items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise BadInput(f"{given}: {kind} has weights for images of its training alone, {name}; leave it out.")
    denoiser.load_state_dict(weights)
    made = Model(denoiser.eval(), model.conditioner, codec)
    bound_decoding(made.codec, asked.decode_memory)
    return opened._replace(loaded=replace(opened.loaded, model=made))
