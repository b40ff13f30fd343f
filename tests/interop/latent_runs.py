"""Images of pipelines of diffusers and of run directories from the same first latents."""

import sys

import diffusers
import torch

from denoiselab.guidance import Guidance
from denoiselab.noise import Noise
from denoiselab.pretrained import read_weights
from denoiselab.samplers import DDIM
from denoiselab.samplers.spacing.trained import Leading

STEPS, INDEX = 5, torch.arange(2)


def scheduler():
    return diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )


def start(shape):
    return Noise(7, INDEX).normal(shape)


def theirs(pipeline, options, monkeypatch):
    """Images of the pipeline, in [0, 1]."""
    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "randn_tensor", lambda shape, **_: start(shape[1:]))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(**options, num_inference_steps=STEPS, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def ours(run, conditions, scale):
    """Images of the run directory, in [0, 1]."""
    model = read_weights(run / "checkpoints" / "last.ckpt", None, conditions)[0].model
    return drawn(model, scale)


@torch.no_grad()
def drawn(model, scale, cond=None):
    """Images of a model, in [0, 1]."""
    schedule, sampler = model.denoiser.eval().schedule, DDIM(Leading(1), STEPS)
    denoise = model.bound(INDEX, Guidance(scale), cond)
    x = sampler.run(denoise, schedule, sampler.grid(schedule), start(model.shape), Noise(0, INDEX))
    return (model.codec.decode(x) / 2 + 0.5).clamp(0, 1)
