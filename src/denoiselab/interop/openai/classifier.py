"""Checkpoints of guided-diffusion's classifier of noisy images; names as in `denoiselab.interop.openai.unets`."""

from __future__ import annotations

import math
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


class Classifier:
    """A `.pt` of guided-diffusion's classifier with attention pooling.

    Args:
        path: The file.
        classifier_depth: Flag of that name: 4 for the released one at 64x64, 2 for the others.
        num_head_channels: 64 in all released classifiers.
        use_new_attention_order: Flag of that name; off in all released classifiers.
        noise_schedule: Flag of that name, of the chain that made its images noisy.
        diffusion_steps: Flag of that name.
        rescale_timesteps: Flag of that name.
    """

    def __init__(
        self,
        path: str,
        classifier_depth: int = 2,
        num_head_channels: int = 64,
        use_new_attention_order: bool = False,
        noise_schedule: Literal["linear", "cosine"] = "linear",
        diffusion_steps: int = 1000,
        rescale_timesteps: bool = False,
    ) -> None:
        self.path, self.depth, self.head_channels = path, classifier_depth, num_head_channels
        self.new_order = use_new_attention_order
        self.schedule = DiscreteVP((linear if noise_schedule == "linear" else cosine)(diffusion_steps))
        self.label = StepIndex(scale=1000 / diffusion_steps if rescale_timesteps else 1.0)

    def read(self) -> NoisyClassifier:
        """The classifier, with its schedule, in evaluation mode.

        Raises:
            InteropError: The file cannot be read, or holds another network.
        """
        file = Path(self.path).expanduser()
        state = read_tensors(file)
        layout = classifier_layout(state, file, self.depth, self.head_channels, self.new_order)
        network = layout.built(layout.to_ours(state, file))
        classes, shape = layout.options["num_classes"], layout.options["shape"]
        return NoisyClassifier(network, self.schedule, self.label, classes, shape).eval()


def classifier_layout(
    state: State, where: Path, depth: int, head_channels: int = 64, new_order: bool = False
) -> Layout:
    """The `ADMClassifier` that a state of theirs belongs to.

    Args:
        state: Names to tensors.
        where: The file, for messages.
        depth: As `classifier_depth` in `Classifier`.
        head_channels: As `num_head_channels` there.
        new_order: As `use_new_attention_order` there.

    Raises:
        InteropError: It is no such state.
    """
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
