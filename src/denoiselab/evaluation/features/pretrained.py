"""Base of the extractors with published weights."""

from __future__ import annotations

import importlib.util
import pickle
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Workspace
from denoiselab.evaluation.feature_contracts import FeatureExtractor
from denoiselab.evaluation.features.extractors import ImageExtractor, NetworkFeatures
from denoiselab.evaluation.features.weights import WeightsFile

RESIZE = "TF1 bilinear to {}"


class Pretrained(ImageExtractor):
    """An extractor whose weights are a file.

    Attributes:
        weights: The file.
        titles: Names in the literature of metrics with these features.
    """

    weights: WeightsFile
    titles: Mapping[str, str] = {}

    def check_weights(self, layers: frozenset[str]) -> str:
        digest = self.weights.verify()
        if self.weights.sha256 is None:  # then reading the file is the only check
            self._read(layers)
        return digest

    def extractor(self, layers: frozenset[str], train: DataSet, held_out: DataSet, work: Workspace) -> FeatureExtractor:
        """The extractor of `layers`; the data are not used.

        Raises:
            ValueError: If the weights are missing, or another network's.
        """
        digest = self.weights.verify()
        network, facts = self._read(layers)
        return NetworkFeatures(self.name, digest, network, 3, facts, self.titles, "")

    def _read(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """`network(layers)`, with errors of the file as a ValueError."""
        try:
            return self.network(layers)
        except (RuntimeError, LookupError, AttributeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            first = next(iter(str(error).splitlines()), "")
            file, owner = self.weights.file, self.weights.owner
            raise ValueError(f"evaluation.extractor: {file} does not hold the weights of {owner} ({first}).") from None

    @abstractmethod
    def network(self, layers: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
        """A map from RGB uint8 images to the outputs of `layers`, and what else its features depend on."""

    def state(self) -> dict[str, Tensor]:
        """The tensors of the file; nothing in it is executed."""
        state: dict[str, Tensor] = torch.load(self.weights.file, map_location="cpu", weights_only=True)
        return state


def need(module: str) -> None:
    """Check that a package of the extra `extractors` is installed.

    Raises:
        ValueError: If it is not.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{module} is not installed; pip install 'denoiselab[extractors]'.")
