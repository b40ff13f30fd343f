"""What an objective learns from is no part of it; how much of the training is done."""

import copy

import pytest
import torch

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import ClassLabel, Unconditional
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.guidance import Guidance, bind
from denoiselab.guidance.teacher import GuidedTeacher
from denoiselab.model import Model
from denoiselab.networks import MLP
from denoiselab.networks.conditioning import Conditioning
from denoiselab.objectives import DenoisingObjective, Progressive, weights
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.samplers.spacing import Asinh, VPTime
from denoiselab.schedules import VPLinear
from denoiselab.trained.costs import step_costs
from denoiselab.training.ema import EMA
from denoiselab.training.module import DiffusionModule


def denoiser(width=8):
    torch.manual_seed(width)
    return Denoiser(MLP((2,), width, 1), VPLinear(), parameterizations.v, ScaledTime())


def taught(student):
    objective = Progressive(VPTime(), 2, weights.truncated_snr)
    objective.take_teacher(copy.deepcopy(student))
    return objective


def test_a_teacher_is_frozen_and_neither_trained_nor_saved():
    student = denoiser()
    objective = taught(student)
    assert objective.teacher is not None
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())
    assert not objective.teacher.training
    assert not [*objective.parameters()]
    assert not objective.state_dict()
    objective.train()
    assert not objective.teacher.training


def test_the_fraction_of_training_is_that_of_images_seen():
    student = denoiser()
    objective = taught(student)
    seen = []
    objective.register_forward_pre_hook(lambda self, given: seen.append(self.fraction))
    module = DiffusionModule(
        Model(student, Unconditional(), Identity((2,))), objective, torch.optim.SGD, lambda images: 1.0, EMA({}), 0,
        {"max_images": 16},
    )  # fmt: skip
    module._trainer = type("Alone", (), {"world_size": 1, "global_rank": 0})()
    batch = {"position": torch.arange(4), "images": torch.zeros(4, 2), "labels": torch.zeros(4, dtype=torch.int64)}
    for images in (0, 4, 16, 20):
        module.images_seen = images  # as of a checkpoint
        module._begin()
        module.training_step(batch, 0)
    assert seen == [0.0, 0.25, 1.0, 1.0]


def test_costs_of_a_step_count_the_calls_of_the_teacher():
    """Forward and backward are three times a forward pass, and the teacher's two calls one each."""
    model = Model(denoiser(64), Unconditional(), Identity((2,)))
    plain = step_costs(model, DenoisingObjective(weights.snr, UniformTime())).flops
    assert 1.6 < step_costs(model, taught(model.denoiser)).flops / plain < 1.75


def test_a_guided_teacher_is_the_guided_model():
    """Level by level of a batch, and with a null condition that a sample's own condition may be."""
    torch.manual_seed(0)
    path, conditioner = VPLinear(), ClassLabel(3, dropout=0.1)
    plain = Denoiser(MLP((2,), 16, 1, num_classes=3), path, parameterizations.eps, ScaledTime()).double()
    x, labels = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 2, 3, 1])
    level = path.level(torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64))
    taught = GuidedTeacher(plain, conditioner, 2.5)(x, level, Conditioning(class_label=labels))
    for i, one in enumerate(level.unbind()):
        cond, null = (Conditioning(class_label=torch.tensor([label])) for label in (int(labels[i]), 3))
        found = bind(plain, cond, null, Guidance(2.5))(x[i : i + 1], one)
        assert torch.allclose(taught.x0[i], found.x0[0], rtol=1e-10)
        assert torch.allclose(taught.eps[i], found.eps[0], rtol=1e-10)
    with pytest.raises(ValueError, match=r"teacher_guidance=2.5: the teacher has no null condition"):
        GuidedTeacher(denoiser(), Unconditional(), 2.5)


def test_a_distilled_teacher_teaches_half_its_own_steps_alone():
    path, objective = VPLinear(), Progressive(VPTime(), 2, weights.truncated_snr)
    objective.check_distilled(VPTime()(path, 4), path)
    for grid in (VPTime()(path, 8), Asinh()(path, 4)):
        with pytest.raises(ValueError, match=r"objective.steps=2 takes one of 4 steps on the same grid"):
            objective.check_distilled(grid, path)
    with pytest.raises(ValueError, match=r"DenoisingObjective needs it at other levels"):
        DenoisingObjective(weights.snr, UniformTime()).check_distilled(VPTime()(path, 4), path)
