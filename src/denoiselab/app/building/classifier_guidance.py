"""Guidance by the gradient of a classifier, or of another log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.app.building import rehearsal
from denoiselab.app.config.settings import ClassifierGuidance
from denoiselab.classifiers import TrainedClassifier
from denoiselab.codecs import Identity
from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoise
from denoiselab.errors import BadInput, not_given
from denoiselab.files import sha256_of
from denoiselab.from_config import with_hashes
from denoiselab.guidance import ClassifierGuided, Form, LogLikelihood, NoisyClassifier
from denoiselab.interop import InteropError
from denoiselab.model import Model
from denoiselab.nodes.instantiate import check_contract, construct
from denoiselab.pretrained import Loaded
from denoiselab.samplers import Sampler, Tally

_OPTION = "classifier_guidance"


@dataclass
class Steering:
    """A classifier, or another log-likelihood, that guides denoisers.

    Args:
        likelihood: On the device of the sampling.
        conditioner: The model's; its classes are the classifier's.
        scale: Of its gradient.
        of: What the protocol has of it, beside scale and form.
        form: Of the guidance.
    """

    likelihood: NoisyClassifier | LogLikelihood
    conditioner: Conditioner
    scale: float
    of: Mapping[str, Any]
    form: Form = "eps"

    @property
    def facts(self) -> dict[str, Any]:
        """The part of the protocol that it adds."""
        form = {} if self.form == "eps" else {"classifier_form": self.form}
        return {"classifier_scale": self.scale, **form, **self.of}

    @property
    def strata(self) -> int:
        """Sample i is of the class of sample i mod strata."""
        own = self.conditioner.sample(torch.zeros(1, dtype=torch.int64)).class_label
        return math.lcm(self.conditioner.strata, 1 if own is not None or self._classes is None else self._classes)

    def classes(self, index: Tensor) -> Tensor | None:
        """Classes of samples `index` `(B,)`: the model's, or of sample i class i mod K; None if there are none."""
        own = self.conditioner.sample(index).class_label
        return own if own is not None or self._classes is None else index % self._classes

    def __call__(self, denoise: Denoise, index: Tensor, tally: Tally) -> ClassifierGuided:
        """The guided denoiser of samples `index` `(B,)`."""
        classes = None if self._classes is None else self.classes(index)
        asked = index if classes is None else classes
        return ClassifierGuided(denoise, self.likelihood, asked, self.scale, tally, self.form)

    def described(self, index: Tensor) -> list[str] | None:
        """Labels of samples: the model's, or the numbers of the classes."""
        own = self.conditioner.described(index)
        return own if own is not None or self._classes is None else [str(k) for k in (index % self._classes).tolist()]

    def check_sampler(self, sampler: Sampler, name: str) -> None:
        """Refuse a sampler that cannot guide so; `name` says which it is.

        Raises:
            BadInput: If it cannot.
        """
        if self.form == "mean" and not sampler.moves_mean:
            raise BadInput(
                f"{_OPTION}.form=mean: {name} has no mean and variance of its own to move; use an ancestral sampler "
                f"(sampler=ancestral or ddpm), or {_OPTION}.form=eps."
            )

    @property
    def _classes(self) -> int | None:
        return getattr(self.likelihood, "num_classes", None)


def check_function(given: ClassifierGuidance | None) -> None:
    """Refuse a function of a log-likelihood that is not allowed or cannot be called as one."""
    if given is None or given.function is None:
        return
    if given.function == "???":
        raise not_given(f"{_OPTION}.function")
    _function(given.function)


def steering(given: ClassifierGuidance | None, loaded: Loaded, device: torch.device) -> Steering | None:
    """The configured classifier or log-likelihood of a model's samples, if any."""
    if given is None:
        return None
    conditioner = loaded.model.conditioner
    if given.function is not None:
        function = _function(given.function)
        if isinstance(function, torch.nn.Module):
            function.to(device).eval().requires_grad_(False)
        _check_output(given.function, function, loaded.model, device)
        return Steering(function, conditioner, given.scale, {"log_likelihood": with_hashes(given.function)}, given.form)
    if given.classifier is None:
        raise not_given(f"{_OPTION}.classifier")
    source = construct(given.classifier, f"{_OPTION}.classifier")
    try:
        classifier: NoisyClassifier = source.read()
    except InteropError as error:
        raise BadInput(f"{_OPTION}.classifier.path={error}") from None
    _check_classifier(classifier, loaded.model)
    if isinstance(source, TrainedClassifier):
        _check_codec(source.codec, loaded.config.get("codec"))
        of = source.facts
    else:
        of = {"classifier_sha256": sha256_of(Path(given.classifier["path"]).expanduser())}
    return Steering(classifier.to(device).eval().requires_grad_(False), conditioner, given.scale, of, given.form)


def _function(given: str | Mapping[str, Any]) -> Callable[..., Tensor]:
    """The log-likelihood of a dotted name of a function, or of a node."""
    node = {"_target_": given.replace(":", "."), "_partial_": True} if isinstance(given, str) else given
    function: Callable[..., Tensor] = construct(node, f"{_OPTION}.function")
    check_contract(f"{_OPTION}.function", function, LogLikelihood)
    return function


def _check_output(
    given: str | Mapping[str, Any], function: Callable[..., Tensor], model: Model, device: torch.device
) -> None:
    """Refuse a log-likelihood that is not one number a sample with a gradient, tried on zeros at alpha = sigma."""
    level = model.denoiser.schedule.at(torch.zeros((), dtype=torch.float64))
    with torch.enable_grad():
        x = torch.zeros(2, *model.shape, device=device, requires_grad=True)
        # The index of a first sample: others need not have a measurement.
        out = function(x, level, torch.zeros(2, dtype=torch.int64, device=device))
        fits = isinstance(out, Tensor) and out.shape == (2,)
        found = rehearsal.found(out)
        if fits:
            slope = torch.autograd.grad(out.sum(), x, allow_unused=True)[0] if out.requires_grad else None
            fits, found = slope is not None, "numbers that have no gradient"
    if not fits:
        name = given if isinstance(given, str) else given["_target_"]
        raise BadInput(
            f"{_OPTION}.function={name}: it gave {found} for 2 samples; it must give one number a sample, (B,), "
            "differentiable in x."
        )


def _check_classifier(classifier: NoisyClassifier, model: Model) -> None:
    if classifier.shape != tuple(model.shape):
        raise BadInput(
            f"{_OPTION}: the classifier takes images {list(classifier.shape)}, the model makes {list(model.shape)}."
        )
    classes = getattr(model.conditioner, "num_classes", classifier.num_classes)
    if classes != classifier.num_classes:
        raise BadInput(f"{_OPTION}: the classifier has {classifier.num_classes} classes, the model {classes}.")


def _check_codec(classifiers: Mapping[str, Any] | None, models: Mapping[str, Any] | None) -> None:
    """Refuse a classifier of other latents than the model's."""
    pixels = f"{Identity.__module__.rpartition('.')[0]}.{Identity.__name__}"
    first, second = (
        None if codec is None or codec["_target_"] == pixels else with_hashes(codec) for codec in (classifiers, models)
    )
    if first != second:
        raise BadInput(f"{_OPTION}: the classifier's codec is another one than the model's, so its input is another.")
