"""What a run can train, and the loss of a training batch of each kind."""

from denoiselab.model import Model
from denoiselab.objectives import Objective
from denoiselab.trained.classifier import ClassifierModel
from denoiselab.trained.losses import BatchLoss, Denoising, Loss

# What a run trains.
Trained = Model | ClassifierModel


def batch_loss(model: Trained, objective: Objective) -> BatchLoss:
    """The loss of training batches for what a run trains."""
    return Denoising(model, objective)


__all__ = ["BatchLoss", "ClassifierModel", "Denoising", "Loss", "Trained", "batch_loss"]
