"""A pipeline of diffusers as a run directory, guided: our guiders and samplers against diffusers' own.

Both run in float64, so that the rules are compared and not roundings. As released, diffusers keeps noise levels in
float32, and DPM-Solver++ casts x to float32 in each step: samples then differ by up to 4e-6 of their size.
"""

from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import guiders
from diffusers.schedulers import scheduling_dpmsolver_multistep as multistep
from frozen_models import autoencoder
from randomised import randomised

from denoiselab.app.building import imports
from denoiselab.guidance import CFGZeroStar, ClassifierFree, Guidance, bind
from denoiselab.interop.config_nodes import node
from denoiselab.noise import Noise
from denoiselab.pretrained import read_weights
from denoiselab.samplers import DDIM, DPMSolverPP
from denoiselab.samplers.spacing.trained import Trailing

STEPS, SCALE, INDEX = 10, 4.0, torch.arange(2)
CLASSES, NULL = torch.tensor([3, 0]), torch.tensor([1000, 1000])
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "trailing"}


class Double:
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A transformer of diffusers and what it is imported to, in float64."""
    folder = tmp_path_factory.mktemp("guided")
    options = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
    transformer = randomised(diffusers.DiTTransformer2DModel(**options, sample_size=4, out_channels=8)).eval()
    first, second = (block.norm1.emb for block in transformer.transformer_blocks)
    second.load_state_dict(first.state_dict())  # as in all released weights
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    diffusers.DiTPipeline(transformer, autoencoder("AutoencoderKL"), scheduler).save_pretrained(folder / "pipeline")
    source = node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(folder / "pipeline"))
    run = imports.run_directory(source, folder / "logs")
    ours = read_weights(run / "checkpoints" / "last.ckpt", None, {"classes": CLASSES.tolist()})[0].model
    ours.denoiser.double().eval()
    return transformer.double(), ours


def start():
    return Noise(7, INDEX).normal((4, 4, 4)).double()


@torch.no_grad()
def theirs(transformer, scheduler, guider, schedule):
    nodes = schedule.nodes()
    scheduler.alphas_cumprod = nodes.alpha.square()
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat((nodes.rho[scheduler.timesteps], torch.zeros(1, dtype=torch.float64)))
    x = start()
    for step, t in enumerate(scheduler.timesteps):
        guider.set_state(step, STEPS, t)
        cond, null = (transformer(x, t[None], class_labels=labels).sample[:, :4] for labels in (CLASSES, NULL))
        x = scheduler.step(guider.forward(cond, null).pred, t, x).prev_sample
    return x


@torch.no_grad()
def ours(model, sampler, guider):
    schedule, conditioner = model.denoiser.schedule, model.conditioner
    denoise = bind(model.denoiser, conditioner.sample(INDEX), conditioner.null(INDEX), Guidance(SCALE, guider))
    return sampler.run(denoise, schedule, sampler.grid(schedule), start(), Noise(0, INDEX))


SOLVERS = {
    "DDIM": (DDIM(Trailing(), STEPS), lambda: diffusers.DDIMScheduler(**BETAS, clip_sample=False)),
    "DPM-Solver++ 2M": (
        DPMSolverPP(Trailing(), STEPS, order=2, published=True),
        lambda: multistep.DPMSolverMultistepScheduler(**BETAS),
    ),
}
RULES = {
    "CFG": (ClassifierFree(), guiders.ClassifierFreeGuidance, {}),
    "rescale": (ClassifierFree(rescale=0.7, space="eps"), guiders.ClassifierFreeGuidance, {"guidance_rescale": 0.7}),
    "interval": (ClassifierFree(interval=(0, 1)), guiders.ClassifierFreeGuidance, {"start": 0.2, "stop": 0.6}),
    "CFG-Zero*": (CFGZeroStar(space="eps"), guiders.ClassifierFreeZeroStarGuidance, {}),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", RULES)
def test_guided_samples_are_those_of_diffusers(rule, solver, models, monkeypatch):
    monkeypatch.setattr(multistep, "torch", Double())
    transformer, model = models
    sampler, scheduler = SOLVERS[solver][0], SOLVERS[solver][1]()
    guider, peer, options = RULES[rule]
    if rule == "interval":  # steps 2 to 5
        rho = [level.rho for level in sampler.grid(model.denoiser.schedule)]
        guider = replace(guider, interval=(float(rho[6]), float(rho[2])))
    found = ours(model, sampler, guider)
    expected = theirs(transformer, scheduler, peer(guidance_scale=SCALE, **options), model.denoiser.schedule)
    allowed = 1e-6 if rule == "CFG-Zero*" else 1e-12  # they compute its factor in float32
    assert float((found - expected).abs().max() / expected.abs().max()) < allowed
