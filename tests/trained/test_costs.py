"""The costs of a step, found without numbers, against a real step."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet, DiT
from denoiselab.noise import TRAINING, Noise
from denoiselab.objectives import DenoisingObjective, SlicedScoreMatching, projections, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.schedules import VPLinear
from denoiselab.trained import batch_loss
from denoiselab.trained.costs import step_costs

BATCH = 6
DENOISING = DenoisingObjective(weights.snr, UniformTime())


def model(network, conditioner=None):
    denoiser = Denoiser(network.train(), VPLinear(), parameterizations.eps, ScaledTime())
    return Model(denoiser, conditioner or Unconditional(), Identity((1, 8, 8)))


def unet(**options):
    return DDPMUNet((1, 8, 8), channels=16, multipliers=(1, 2), blocks=1, attention_levels=(1,), groups=8, **options)


def dit(**options):
    return DiT((1, 8, 8), width=32, depth=2, heads=2, **options)


def real_step(model, objective):
    """Operations and bytes kept for the backward pass of a step of BATCH images on the CPU."""
    weights = {p.untyped_storage().data_ptr() for p in model.trained.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    index = torch.arange(BATCH)
    batch = {"position": index, "images": torch.randn(BATCH, 1, 8, 8), "labels": index % 3}
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter:  # torch counts no other attention of the CPU
        batch_loss(model, objective).loss(batch, Noise(0, index, TRAINING), 0).total.backward()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        batch_loss(model, objective).loss(batch, Noise(0, index, TRAINING), 0)
        held = sum(one.nbytes() for address, one in kept.items() if address not in weights)
    return counter.get_total_flops(), held


@pytest.mark.parametrize(
    ("network", "conditioner"),
    [(unet, None), (dit, ClassLabel(3)), (lambda **o: dit(checkpoint_levels="all", **o), ClassLabel(3))],
)
def test_costs_of_a_step_are_those_of_a_real_one(network, conditioner):
    options = {"num_classes": 3} if conditioner else {}
    with torch.device("meta"):
        empty = network(**options)
    found = step_costs(model(empty, conditioner), DENOISING)
    real = model(network(**options), conditioner)
    flops, held = real_step(real, DENOISING)
    assert found.parameters == sum(p.numel() for p in real.trained.parameters())
    assert found.activation_bytes * BATCH + found.fixed_bytes == pytest.approx(held, rel=0.05)
    if not getattr(real.denoiser.network, "checkpoint_levels", ()):  # then torch counts some twice
        assert found.flops * BATCH == flops


def test_recomputed_activations_save_memory_and_are_not_counted_as_work():
    plain, again = (step_costs(model(dit(checkpoint_levels=levels)), DENOISING) for levels in ((), "all"))
    assert again.activation_bytes < plain.activation_bytes / 2
    assert again.flops == plain.flops


def test_second_derivatives_count():
    """The loss of sliced score matching takes more than twice the work of denoising."""
    sliced = SlicedScoreMatching(UniformTime(), projections.rademacher)
    assert step_costs(model(dit()), sliced).flops > 2 * step_costs(model(dit()), DENOISING).flops


def test_half_precision_keeps_less_and_the_weights_in_its_dtype():
    """Of 4 bytes a number, norms and residuals aside, mixed precision keeps 2; steps in bfloat16 do so of all."""
    plain, mixed, half = (step_costs(model(dit()), DENOISING, p) for p in ("32-true", "bf16-mixed", "bf16-true"))
    assert half.activation_bytes < 0.9 * mixed.activation_bytes < 0.8 * plain.activation_bytes
    assert half.activation_bytes == pytest.approx(plain.activation_bytes / 2, rel=0.05)
    assert mixed.fixed_bytes > plain.parameters  # most of the weights in two bytes each
    assert half.fixed_bytes > plain.parameters
    assert half.flops == mixed.flops == plain.flops
