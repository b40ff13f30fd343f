"""Scores of images by the features of a classifier."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from denoiselab import progress
from denoiselab.data import DataSet, from_uint8
from denoiselab.evaluation.scorer import Score
from denoiselab.evaluation.statistics import GaussianStatistics, frechet_distance
from denoiselab.files import atomic


class _Classifier(nn.Module):
    """A small convolutional classifier whose last hidden layer is the feature vector.

    Args:
        channels: Of the images.
        num_classes: Number of classes.
        dimension: Of the features.
    """

    def __init__(self, channels: int, num_classes: int, dimension: int) -> None:
        super().__init__()

        def stage(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]

        self.body = nn.Sequential(*stage(channels, 32), *stage(32, 64), nn.MaxPool2d(2), *stage(64, 64))
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, dimension), nn.ReLU())
        self.head = nn.Linear(dimension, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of uint8 images."""
        out: Tensor = self.head(self.extract(images))
        return out

    def extract(self, images: Tensor) -> Tensor:
        """Features `(B, D)` of uint8 images."""
        out: Tensor = self.features(self.body(from_uint8(images).contiguous(memory_format=torch.channels_last)))
        return out


class ClassifierFeatures:
    """The Fréchet distance to the training images of a trained classifier's features, float32 with autocast off.

    Args:
        network: The classifier.
        dimension: Of the features.
        fingerprint: sha256 of its weights.
        accuracy: On held-out images; None where there were none.
        held_out: Number of those.
    """

    name = "classifier"
    metric = "fd_classifier"
    lower_is_better: Mapping[str, bool] = MappingProxyType({metric: True})
    split = "train"

    def __init__(
        self, network: _Classifier, dimension: int, fingerprint: str, accuracy: float | None, held_out: int = 0
    ) -> None:
        self._network = network.eval().requires_grad_(requires_grad=False)
        self.dimension, self.fingerprint, self.accuracy = dimension, fingerprint, accuracy
        self.facts: Mapping[str, Any] = {"extractor_accuracy": accuracy}
        self.told = "" if accuracy is None else f"a classifier: {accuracy:.2%} right on {held_out} held-out images"

    def statistics(self) -> GaussianStatistics:
        """Mean and covariance of the features of no image."""
        return GaussianStatistics(self.dimension, self)

    def scores(self, statistics: GaussianStatistics, reference: GaussianStatistics) -> dict[str, Score]:
        """The Fréchet distance."""
        return {self.metric: Score(frechet_distance(statistics, reference))}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, D)` of `images` `(B, C, H, W)` uint8."""
        parameter = next(self._network.parameters())
        with torch.autocast(images.device.type, enabled=False):
            return self._network.extract(images.to(parameter.device))


class DomainClassifier:
    """A classifier trained on the data set at hand: features that mean something where Inception's do not.

    Its scores are comparable only with scores of the same classifier, so they carry its hash. It is trained once
    and cached under a hash of the images and the recipe.

    Args:
        epochs: Passes over the training images.
        batch_size: Images a step.
        lr: Peak learning rate of the one-cycle policy.
        dimension: Of the features.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(self, epochs: int = 15, batch_size: int = 64, lr: float = 5e-3, dimension: int = 64) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr), ("dimension", dimension)):
            if value <= 0:
                raise ValueError(f"{name}={value}: it must be positive.")
        self.epochs, self.batch_size, self.lr, self.dimension = epochs, batch_size, lr, dimension

    def check(self, shape: Sequence[int]) -> None:
        """Refuse samples that are not images.

        Raises:
            ValueError: Samples of this shape.
        """
        if len(shape) != 3:
            raise ValueError(
                f"evaluation.extractor: DomainClassifier scores images, and samples have shape {list(shape)}; "
                "choose evaluation=points for points."
            )

    def fit(
        self,
        train: DataSet,
        validation: DataSet,
        cache: Path,
        check: Callable[[int], None] = lambda step: None,
        *,
        shown: bool = True,
    ) -> ClassifierFeatures:
        """The trained classifier, from `cache` if it is there; what `check` raises between steps stops it."""
        self.check(train.stored.shape[1:])
        recipe = {"format": 1, **vars(self), "train": train.fingerprint, "validation": validation.fingerprint}
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        path = cache / f"classifier-{key[:16]}.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _Classifier(train.stored.shape[1], int(train.labels.max()) + 1, self.dimension)
            network.to(memory_format=torch.channels_last)
            try:
                with safe_open(path, framework="pt") as file:
                    network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                    accuracy = json.loads(file.metadata()["accuracy"])
            except (FileNotFoundError, SafetensorError):
                accuracy = self._train(network, train, validation, check, shown=shown)
                metadata = {"accuracy": json.dumps(accuracy), "recipe": json.dumps(recipe)}
                with atomic(path) as out:
                    out.write(save({name: t.contiguous() for name, t in network.state_dict().items()}, metadata))
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return ClassifierFeatures(network, self.dimension, digest.hexdigest(), accuracy, len(validation))

    def _train(
        self,
        network: _Classifier,
        train: DataSet,
        validation: DataSet,
        check: Callable[[int], None],
        *,
        shown: bool,
    ) -> float | None:
        steps = -(-len(train) // self.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        policy = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, epochs=self.epochs, steps_per_epoch=steps)
        with progress.bar("classifier", self.epochs * len(train), shown=shown) as bar:
            for _ in range(self.epochs):
                for batch in torch.randperm(len(train)).split(self.batch_size):
                    loss = F.cross_entropy(network(train.stored[batch]), train.labels[batch], label_smoothing=0.05)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    policy.step()
                    check(policy.last_epoch)
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                    bar.update(len(batch))
        if not len(validation):
            return None
        with torch.no_grad():
            predicted = network.eval()(validation.stored).argmax(1)
        return float((predicted == validation.labels).double().mean())
