"""What a run can train, and the loss of a training batch of each kind."""

from torch import nn

from denoiselab.codecs import ReconstructionLoss
from denoiselab.model import Model
from denoiselab.objectives import Objective, RepresentationAlignment
from denoiselab.trained.classifier import ClassifierModel
from denoiselab.trained.first_stage import FirstStage
from denoiselab.trained.losses import Aligning, BatchLoss, Denoising, Group, Loss, Reconstructing

# What a run trains.
Trained = Model | ClassifierModel | FirstStage


def batch_loss(model: Trained, objective: nn.Module) -> BatchLoss:
    """The loss of training batches for what a run trains, by an objective of its kind."""
    if isinstance(model, FirstStage):
        assert isinstance(objective, ReconstructionLoss)
        objective.check(model.trained, model.shape)
        return Reconstructing(model, objective)
    for part in objective.modules():
        if isinstance(part, Objective):
            part.null_condition = model.conditioner.null
    if isinstance(objective, RepresentationAlignment):
        assert isinstance(model, Model)
        return Aligning(model, objective)
    return Denoising(model, objective)


__all__ = [
    "Aligning",
    "BatchLoss",
    "ClassifierModel",
    "Denoising",
    "FirstStage",
    "Group",
    "Loss",
    "Reconstructing",
    "Trained",
    "batch_loss",
]
