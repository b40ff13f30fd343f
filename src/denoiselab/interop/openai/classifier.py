"""Checkpoints of guided-diffusion's classifier of noisy images; names as in `denoiselab.interop.openai.unets`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from denoiselab.denoiser import StepIndex
from denoiselab.guidance import NoisyClassifier
from denoiselab.interop.openai.unets import encoder_options, names
from denoiselab.interop.weights.files import read_tensors
from denoiselab.interop.weights.layout import Entry, Layout, Pointwise, Transposed, layer
from denoiselab.interop.weights.state_dicts import State, width_of
from denoiselab.interop.weights.unet_names import entries
from denoiselab.networks import ADMClassifier
from denoiselab.schedules import DiscreteVP
from denoiselab.schedules.betas import cosine, linear


@dataclass
class Classifier:
    """A `.pt` of guided-diffusion's classifier with attention pooling. Options are its flags of the same names.

    Args:
        path: The file.
        classifier_depth: 4 for the released one at 64x64, 2 for the others.
        num_head_channels: 64 in all released classifiers.
        use_new_attention_order: As in `denoiselab.interop.openai.unets.UNet`; off in all released classifiers.
        noise_schedule: Of the noise on its training images.
        diffusion_steps: As in `UNet`.
        rescale_timesteps: As in `UNet`.
    """

    path: str
    classifier_depth: int = 2
    num_head_channels: int = 64
    use_new_attention_order: bool = False
    noise_schedule: Literal["linear", "cosine"] = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    def __post_init__(self) -> None:
        self._schedule = DiscreteVP((linear if self.noise_schedule == "linear" else cosine)(self.diffusion_steps))
        self._label = StepIndex(scale=1000 / self.diffusion_steps if self.rescale_timesteps else 1.0)

    def read(self) -> NoisyClassifier:
        """The classifier, with its schedule, in evaluation mode."""
        file = Path(self.path).expanduser()
        state = read_tensors(file)
        order = self.use_new_attention_order
        layout = classifier_layout(state, file, self.classifier_depth, self.num_head_channels, order)
        network = layout.built(layout.to_ours(state, file))
        classes, shape = layout.options["num_classes"], layout.options["shape"]
        return NoisyClassifier(network, self._schedule, self._label, classes, shape).eval()


def classifier_layout(
    state: State, where: Path, depth: int, head_channels: int = 64, new_order: bool = False
) -> Layout:
    """The `ADMClassifier` of a state dict of theirs; options as in `Classifier`."""
    positions = width_of(state, "out.2.positional_embedding", where, axis=1) - 1
    inputs = width_of(state, "input_blocks.0.0.weight", where, axis=1)
    options = {
        **encoder_options(state, where, depth, inputs, None, pooled=math.isqrt(positions)),
        "num_classes": width_of(state, "out.2.c_proj.weight", where),
        "head_channels": head_channels,
    }
    pool = [
        Entry("pool.position", ("out.2.positional_embedding",), Transposed()),
        *layer("pool.qkv", "out.2.qkv_proj", Pointwise(1)),
        *layer("pool.out", "out.2.c_proj", Pointwise(1)),
    ]
    return Layout(ADMClassifier, options, [*entries(options, names(options, new_order), encoder_only=True), *pool])
