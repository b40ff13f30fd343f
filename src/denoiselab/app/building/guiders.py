"""Guidance as it is configured: scales, and nodes of guiders."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoiselab.errors import BadInput
from denoiselab.from_config import with_hashes
from denoiselab.guidance import Guidance, Guider
from denoiselab.guides import AutoGuide
from denoiselab.model import Model
from denoiselab.nodes.instantiate import check_contract, construct

Config = Mapping[str, Any]

# Options of conditioners on which the meaning of a condition depends.
_MEANING = ("_target_", "num_classes", "encoder", "gives", "shape", "factor")


@dataclass(frozen=True)
class Guided:
    """The model that is guided.

    Args:
        model: Built.
        config: Of its run.
        path: Of its file; None in training.
        weights: Names of those that are scored or sampled.
    """

    model: Model
    config: Config
    path: Path | None = None
    weights: Collection[str] = ()

    def guidance(self, scale: float, node: Config | None, option: str = "guider") -> Guidance:
        """The guidance of a scale and a checked node, None for the plain rule.

        Raises:
            BadInput: If an option is refused, or a guide does not suit the model.
        """
        return Guidance(scale) if node is None else Guidance(scale, self.guider(node, option))

    def all(
        self, scales: Sequence[float], nodes: Sequence[Config], option: str, own: Sequence[float | None] = ()
    ) -> list[Guidance]:
        """The guidance of all scales with all guiders, each once: at their neutral scale guiders do not differ.

        Args:
            scales: Of guiders that have no own one.
            nodes: Checked, of guiders.
            option: Names these.
            own: The own scale of each, if any has one.

        Raises:
            BadInput: As in `guidance`.
        """
        guiders = [*zip((self.guider(node, option) for node in nodes), own or [None] * len(nodes), strict=True)]
        swept = [Guidance(scale, guider) for scale in scales for guider, alone in guiders if alone is None]
        return once([*swept, *(Guidance(alone, guider) for guider, alone in guiders if alone is not None)])

    def guider(self, node: Config, option: str) -> Guider:
        """The guider of a checked node.

        Raises:
            BadInput: As in `guidance`.
        """
        try:
            guider: Guider = construct(node, option)
            check_contract(option, guider, Guider)
            if not isinstance(guider, AutoGuide):
                return guider
            if guider.model is None and self.path is None:
                raise BadInput("guider.model: is not given; name a run directory or a checkpoint file.")
            guider = guider if guider.model is not None or self.path is None else guider.of(self.path)
            self._check(guider)
        except ValueError as error:
            raise BadInput(str(error).replace("guider.", f"{option}.", 1)) from None
        return guider

    def _check(self, guider: AutoGuide) -> None:
        """Refuse a guide that does not see what the model sees."""
        (path, weights), guide = guider.place, guider.loaded
        said, other = f"guider.model={guider.model}", guide.config
        if tuple(guide.model.shape) != tuple(self.model.shape):
            raise BadInput(
                f"{said}: its network takes {list(guide.model.shape)}, the model's {list(self.model.shape)}."
            )
        if _codec(other) != _codec(self.config):
            raise BadInput(
                f"{said}: it was trained with another codec than the model, so its input means another thing."
            )
        if guide.model.conditioner.module is not None:
            raise BadInput(
                f"{said}: its text encoder was trained with it, and the guide gets what the model's makes of a text; a "
                "guide has a frozen encoder, or no conditions."
            )
        if guide.model.conditioner.names:
            self._check_conditions(said, other)
        if self.path is not None and path == self.path.resolve() and weights in self.weights:
            named = guider.weights or "null"
            raise BadInput(
                f"guider.weights={named}: the guide is the model itself; name other weights of it, or another model."
            )

    def _check_conditions(self, said: str, other: Config) -> None:
        """Refuse a guide, of another configuration, to which a condition means something else."""
        own, theirs = (_meaning(config["conditioner"]) for config in (self.config, other))
        if own != theirs:
            wrong = next(key for key in _MEANING if own.get(key) != theirs.get(key))
            raise BadInput(
                f"{said}: its conditions differ: conditioner.{wrong} is {_short(theirs.get(wrong))}, the model's "
                f"{_short(own.get(wrong))}; a guide takes the same ones, or none."
            )
        names = [config["data"].get("name") for config in (self.config, other) if "_target_" in config["data"]]
        if len(names) == 2 and names[0] != names[1]:
            raise BadInput(f"{said}: it was trained on {names[1]}, the model on {names[0]}: their classes may differ.")


def once(guidance: Sequence[Guidance]) -> list[Guidance]:
    """Those that make different samples, the first of each kind."""
    return [*{json.dumps(one.facts, sort_keys=True): one for one in reversed(guidance)}.values()][::-1]


def _codec(config: Config) -> Any:
    node = config.get("codec") or {}
    return None if str(node.get("_target_", "Identity")).endswith("Identity") else with_hashes(node)


def _meaning(node: Config) -> dict[str, Any]:
    found = with_hashes(node)
    return {key: found[key] for key in _MEANING if key in found}


def _short(value: Any) -> str:
    return "another one" if isinstance(value, Mapping) else str(value).rpartition(".")[2]
