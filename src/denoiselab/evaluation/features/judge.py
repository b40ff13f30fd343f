"""A linear classifier of the data's classes on features of a network that was trained on other images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from denoiselab import progress
from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Workspace
from denoiselab.evaluation.feature_contracts import FEATURES, LOGITS
from denoiselab.evaluation.features.efficientnet import EfficientNetLite0
from denoiselab.evaluation.features.extractors import NetworkFeatures
from denoiselab.files import atomic, drop_sum, matches_sum, write_sum

_BATCH = 64  # images at a time
_STEPS = 2000  # of the fit, at most


class LinearJudge(EfficientNetLite0):
    """Logistic regression of the data's classes on EfficientNet-Lite0's features of the training images.

    It judges whether a sample shows the kind of thing that its caption or class asks for, and shares no weights with
    a generative model. Features are standardised over the training images, and those that are constant there are left
    out. It is fitted once and cached.

    Args:
        size: Images are resized to it, bilinearly with antialiasing.
        c: Inverse strength of the squared penalty on the weights, as of scikit-learn's `LogisticRegression`.

    Raises:
        ValueError: If the size is no multiple of 32, c is not positive, or the packages are not installed.
    """

    name = "judge"

    def __init__(self, size: int = 64, c: float = 0.003) -> None:
        super().__init__(size)
        if not c > 0:
            raise ValueError(f"c={c}: it must be positive.")
        self.c = c

    def check_data(self, train: DataSet) -> None:
        if int(train.labels.min()) == int(train.labels.max()):
            raise ValueError(
                "evaluation.extractor: LinearJudge needs classes, and all training images are of one; choose "
                "evaluation/extractor=efficientnet_lite0, or data with classes."
            )

    def extractor(self, layers: frozenset[str], train: DataSet, held_out: DataSet, work: Workspace) -> NetworkFeatures:
        """The network with the fitted classifier, from `work.cache` if it is there. Of several processes, one fits."""
        digest = self.weights.verify()
        network, facts = self._read(layers)
        recipe = {
            "format": 1, "weights": digest, "size": self.size, "c": self.c, "train": train.fingerprint,
            "validation": held_out.fingerprint,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        path = work.cache / f"judge-{key[:16]}.safetensors"
        work.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            try:
                if not matches_sum(path):
                    raise ValueError("damaged")
                with safe_open(path, framework="pt") as file:
                    accuracy = json.loads(file.metadata()["accuracy"])
                    weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
            except (FileNotFoundError, SafetensorError, ValueError, TypeError, KeyError):
                plain = NetworkFeatures(self.name, digest, network, 3, facts, {}, "")
                weight, bias = _fitted(_features(plain, train, work), train.labels, self.c)
                right = (_features(plain, held_out, work) @ weight.T + bias).argmax(1) == held_out.labels
                accuracy = float(right.double().mean()) if len(held_out) else None
                drop_sum(path)
                with atomic(path) as out:
                    out.write(save({"weight": weight, "bias": bias}, {"accuracy": json.dumps(accuracy)}))
                write_sum(path)
        own = hashlib.sha256(digest.encode() + weight.numpy().tobytes() + bias.numpy().tobytes()).hexdigest()
        told = "" if accuracy is None else f"a judge: {accuracy:.2%} right on {len(held_out):,} held-out images"
        judge = NetworkFeatures(
            self.name, own, _Judge(network, weight, bias), 3, {**facts, "extractor_accuracy": accuracy}, {}, told
        )
        judge.classifies_data = True
        return judge


class _Judge(nn.Module):
    def __init__(self, inner: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.inner(images)[FEATURES]
        own: Any = self
        return {FEATURES: features, LOGITS: features @ own.weight.T + own.bias}


def _features(network: NetworkFeatures, data: DataSet, work: Workspace) -> Tensor:
    """Features `(N, D)` float32 of a data set."""
    out = []
    with progress.bar("judge", len(data), shown=work.shown) as bar:
        for index in torch.arange(len(data)).split(_BATCH):
            out.append(network(data.stored(index))[FEATURES])
            work.check(len(out))
            bar.update(len(index))
    return torch.cat(out) if out else torch.empty(0, 1)


def _fitted(features: Tensor, labels: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Weight `(K, D)` and bias `(K,)` float32 of a logistic regression, on features that are not standardised."""
    from sklearn.linear_model import LogisticRegression

    deviation, mean = torch.std_mean(features.double(), 0)
    varies = deviation > 1e-6 * features.double().abs().amax(0)
    standard = ((features.double() - mean) / deviation)[:, varies]
    fit = LogisticRegression(C=c, max_iter=_STEPS).fit(standard.numpy(), labels.numpy())
    classes, features_used = int(labels.max()) + 1, torch.from_numpy(fit.coef_).double() / deviation[varies]
    if len(fit.classes_) == 2:  # scikit-learn keeps the logit of the second class alone
        features_used = torch.cat([-features_used, features_used]) / 2
        fit.intercept_ = torch.tensor([-fit.intercept_[0], fit.intercept_[0]]).numpy() / 2
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    bias = torch.full((classes,), -1e9, dtype=torch.float64)  # of classes without an image
    known = torch.from_numpy(fit.classes_)
    weight[known[:, None], varies.nonzero()[:, 0]] = features_used
    bias[known] = torch.from_numpy(fit.intercept_).double() - features_used @ mean[varies]
    return weight.float(), bias.float()
