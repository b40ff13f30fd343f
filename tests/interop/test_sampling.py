"""An imported model samples as its pipeline does, and a pipeline that we write as our model does: the same noise."""

import sys

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from frozen_models import UNET2D
from randomised import off, randomised

from denoiselab.app.building import imports
from denoiselab.denoiser import Denoiser, ScaledTime, StepIndex
from denoiselab.interop.config_nodes import node
from denoiselab.interop.diffusers.writing import write_pipeline
from denoiselab.networks import DDPMUNet
from denoiselab.noise import Noise
from denoiselab.parameterizations import eps, v, x0
from denoiselab.pretrained import read_weights
from denoiselab.samplers import DDIM, Ancestral
from denoiselab.samplers.spacing.trained import Leading
from denoiselab.samplers.thresholding import Clip
from denoiselab.schedules import DiscreteVP, Flow, VPCosine, VPLinear, betas
from denoiselab.variances import FixedLarge, FixedSmall, Learned, LearnedRange

STEPS, SHAPE = 10, (3, 8, 8)
DRAWS = torch.randn(STEPS + 1, 2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# Of their tables of alphas, which are made in float32.
TABLES = {"rtol": 3e-4, "atol": 1e-7}

OURS = {"shape": SHAPE, "channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8}


class Replayed(Noise):
    """Hands out the draws after the first, which is x_T."""

    def __init__(self):
        self.draws = iter(DRAWS[1:])

    def like(self, x):
        return next(self.draws)


def theirs(pipeline, schedule, monkeypatch):
    """What a pipeline ends with, before it is made an image, in float64, as its tables would be unrounded."""
    alphas = schedule.nodes().alpha.square()
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), alphas, **TABLES)
    pipeline.scheduler.alphas_cumprod = alphas
    pipeline.unet.double()
    draws, last = iter(DRAWS), []
    for module in (type(pipeline).__module__, type(pipeline.scheduler).__module__):
        monkeypatch.setattr(sys.modules[module], "randn_tensor", lambda *_, **__: next(draws))
    step = pipeline.scheduler.step

    def watched(*arguments, **options):
        out = step(*arguments, **options)
        last[:] = [out.prev_sample]
        return out

    monkeypatch.setattr(pipeline.scheduler, "step", watched)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=STEPS, output_type="np").images
    expected = last[0]
    shown = torch.from_numpy(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(shown, (expected / 2 + 0.5).clamp(0, 1))
    return expected


def ours(denoiser, sampler):
    """What our sampler ends with."""
    return sampler.run(
        denoiser.eval().double(), denoiser.schedule, sampler.grid(denoiser.schedule), DRAWS[0], Replayed()
    )


KINDS = {
    "ancestral, large": (DDPMScheduler(variance_type="fixed_large"), {}),
    "ancestral, small": (DDPMScheduler(variance_type="fixed_small", clip_sample=False), {}),
    "ancestral, learned": (DDPMScheduler(variance_type="learned_range"), {"out_channels": 6}),
    "ancestral, v and cosine": (
        DDPMScheduler(variance_type="fixed_small", beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        {},
    ),
    "ancestral, x0 and other betas": (
        DDPMScheduler(
            prediction_type="sample", trained_betas=[0.001 * i for i in range(1, 101)], num_train_timesteps=100
        ),
        {},
    ),
    "ddim": (DDIMScheduler(clip_sample=False), {}),
    "ddim, scaled linear, clipped": (
        DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195),
        {},
    ),
}


@pytest.mark.parametrize(("scheduler", "options"), KINDS.values(), ids=KINDS.keys())
def test_an_imported_run_samples_as_its_pipeline(scheduler, options, tmp_path, monkeypatch):
    model = randomised(UNet2DModel(**{**UNET2D, **options}))
    kind, rule = (DDIMPipeline, DDIM) if isinstance(scheduler, DDIMScheduler) else (DDPMPipeline, Ancestral)
    pipeline = kind(model, scheduler)
    pipeline.save_pretrained(tmp_path / "pipeline")
    source = node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(tmp_path / "pipeline"))
    run = imports.run_directory(source, tmp_path / "logs")
    loaded, weights = read_weights(run / "checkpoints" / "last.ckpt", None)
    assert weights == "raw"
    threshold = Clip(keep_eps=rule is DDIM) if scheduler.config.clip_sample else None
    denoiser = loaded.model.denoiser
    own = {} if rule is DDIM else {"large": None}
    found = ours(denoiser, rule(Leading(), STEPS, threshold=threshold, **own))
    assert off(found, theirs(pipeline, denoiser.schedule, monkeypatch)) < 1e-9


MODELS = {
    "eps": (DiscreteVP(betas.linear()), eps, StepIndex(), FixedLarge(), {}),
    "v on cosine": (DiscreteVP(betas.cosine()), v, StepIndex(), FixedSmall(), {"attention_levels": (0, 1)}),
    "x0 on constant betas": (DiscreteVP(betas.const(50, per=50)), x0, StepIndex(), None, {}),
    "zero terminal SNR": (DiscreteVP(betas.scaled_linear(), zero_terminal_snr=True), v, StepIndex(), None, {}),
    "learned variance": (DiscreteVP(betas.linear()), eps, StepIndex(), LearnedRange(), {"outputs": 2}),
}


@pytest.mark.parametrize(("schedule", "kind", "label", "variance", "options"), MODELS.values(), ids=MODELS.keys())
def test_an_exported_pipeline_samples_as_our_model(schedule, kind, label, variance, options, tmp_path, monkeypatch):
    options = {**OURS, **options}
    denoiser = Denoiser(randomised(DDPMUNet(**options)), schedule, kind, label, variance=variance)
    write_pipeline(tmp_path, denoiser, options)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    found = ours(denoiser, Ancestral(Leading(), STEPS, large=None, threshold=Clip()))
    assert off(found, theirs(pipeline, denoiser.schedule, monkeypatch)) < 1e-9


@pytest.mark.parametrize("schedule", [VPLinear(), VPCosine()], ids=["linear", "cosine"])
def test_the_chain_of_a_continuous_model_stands_at_its_labels(schedule, tmp_path):
    """Step i of the exported scheduler is the level that the network is told as i; the first is that of label 1/2."""
    denoiser = Denoiser(randomised(DDPMUNet(**OURS)), schedule, eps, ScaledTime(1000.0))
    write_pipeline(tmp_path, denoiser, OURS)
    scheduler = DDPMPipeline.from_pretrained(tmp_path).scheduler
    labels = torch.arange(scheduler.config.num_train_timesteps, dtype=torch.float64).clamp_min(0.5)
    assert len(labels) == round(1000 * schedule.t_max)
    alpha = schedule.level(labels / 1000).alpha
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), alpha.square(), **TABLES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schedule": Flow()}, "schedule: diffusers' DDPMScheduler needs a variance-preserving schedule; Flow is none"),
        ({"parameterization": lambda level: eps(level)}, "parameterization=<lambda>: .* supports eps, x0, v"),
        ({"input_scale": lambda level: level.alpha}, "denoiser.input_scale"),
        ({"time_label": StepIndex(scale=0.25)}, "denoiser.time_label: .* needs step indices"),
        ({"variance": Learned()}, "denoiser.variance=Learned: .* supports FixedSmall, FixedLarge, LearnedRange"),
        ({"network": torch.nn.Identity()}, "network=Identity: only DDPMUNet, ADMUNet and"),
    ],
)
def test_what_diffusers_does_not_have_is_refused(change, says, tmp_path):
    parts = {"network": DDPMUNet(**OURS), "schedule": VPLinear(), "parameterization": eps, "time_label": ScaledTime()}
    with pytest.raises(ValueError, match=says):
        write_pipeline(tmp_path, Denoiser(**{**parts, **change}), OURS)


def test_a_network_with_classes_is_written_without_a_pipeline(tmp_path):
    options = {**OURS, "num_classes": 3}
    network = randomised(DDPMUNet(**options))
    write_pipeline(tmp_path, Denoiser(network, VPLinear(), eps, ScaledTime()), options)
    assert {path.name for path in tmp_path.iterdir()} == {"unet", "scheduler"}
    assert UNet2DModel.from_pretrained(tmp_path / "unet").config.num_class_embeds == 4
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.num_train_timesteps == 1000
