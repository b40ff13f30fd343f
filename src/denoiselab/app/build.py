"""Configuration to the objects of a run; each shared object is built once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from denoiselab.app import overrides
from denoiselab.app.construct import check, construct
from denoiselab.app.errors import BadInput, closest
from denoiselab.app.settings import Evaluation
from denoiselab.codecs import Codec, Identity
from denoiselab.conditioners import Clean, Conditioner
from denoiselab.data import DataSet
from denoiselab.data.augmentation import Augmentation
from denoiselab.denoiser import Denoiser
from denoiselab.evaluation import Extractor, Given, Metric, references
from denoiselab.frozen.folders import sha256_of
from denoiselab.guidance import bind
from denoiselab.networks.conditioning import OPTIONAL, listed
from denoiselab.noise import AUGMENTING, Noise
from denoiselab.objectives import Objective
from denoiselab.parameterizations import determinant
from denoiselab.samplers import Sampler

Config = Mapping[str, Any]

# The parts of a configuration that a model is made of.
MODEL_PARTS = ("codec", "network", "schedule", "parameterization", "denoiser", "conditioner")


# The grid that stands in a file.
_FROM_FILE = "denoiselab.samplers.spacing.FromFile"


@dataclass(frozen=True)
class Model:
    """A denoiser, the conditioning it takes, and what stands between it and the data."""

    denoiser: Denoiser
    conditioner: Conditioner
    codec: Codec

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the denoiser sees."""
        return self.codec.latent_shape


def parts(config: Config) -> dict[str, Any]:
    """The nodes of a configuration that a model is made of.

    Raises:
        KeyError: One is missing. Only a codec may be: there is none.
    """
    return {part: config[part] for part in MODEL_PARTS if part != "codec" or part in config}


def with_hashes(node: Any) -> Any:
    """A node with the sha256 of each file or folder instead of its `path`: what is in there counts, not where it is."""
    if not isinstance(node, dict):
        return node
    out = {key: with_hashes(value) for key, value in node.items()}
    if isinstance(path := node.get("path"), str):
        if node.get("sha256") is not None:
            del out["path"]
        elif Path(path).is_file():
            out["path"] = {"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
        elif Path(path).is_dir():
            out["path"] = {"sha256": sha256_of(Path(path))}
    return out


def identity(config: Config) -> str:
    """sha256 of all that a model's samples depend on beside its weights: its parts, and the files that they name.

    Raises:
        KeyError: A part is missing.
    """
    nodes = with_hashes(parts(config))
    return hashlib.sha256(json.dumps(nodes, sort_keys=True).encode()).hexdigest()


def build_model(config: Config) -> Model:
    """The untrained model of a checked configuration; its weights are a function of `seed`.

    Raises:
        BadInput: Parts do not fit together.
    """
    codec: Codec = construct(config["codec"], "codec") if "codec" in config else Identity(config["data"]["shape"])
    shape = config["network"].get("shape", codec.latent_shape)
    if tuple(shape) != tuple(codec.latent_shape):
        raise BadInput(f"network.shape={list(shape)}: it must be {list(codec.latent_shape)}, as codec and data are.")
    conditioner: Conditioner = construct(config["conditioner"], "conditioner")
    parameterization = construct(config["parameterization"], "parameterization")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        network: nn.Module = construct(config["network"], "network")
        with torch.device("cpu"):  # a rehearsal has no numbers, but a schedule's are checked
            schedule = construct(config["schedule"], "schedule")
    network.to(memory_format=torch.channels_last)
    takes: frozenset[str] = getattr(network, "conditioning", frozenset())
    if not takes - OPTIONAL <= conditioner.names <= takes:
        raise BadInput(
            f"conditioner: it gives {listed(conditioner.names)}, but network takes {listed(takes)}; "
            "choose conditioner=label, text or low_resolution (they set what the network takes), else conditioner=none."
        )
    denoiser = construct(
        config["denoiser"], "denoiser", network=network, schedule=schedule, parameterization=parameterization
    )
    return Model(denoiser, conditioner, codec)


def build_augmentation(config: Config) -> Augmentation | None:
    """What changes training batches at random, of a checked configuration; it has been tried on images.

    Raises:
        BadInput: It does not fit the data, or the network.
    """
    if config.get("augmentation") is None:
        return None
    augmentation: Augmentation = construct(config["augmentation"], "augmentation")
    shape = config["data"]["shape"]
    if len(shape) != 3:
        raise BadInput(f"augmentation: it is for images, and samples of {config['data']['name']} are of shape {shape}.")
    wanted = config["network"].get("augmentation_features") or 0
    if augmentation.features not in (0, wanted):
        raise BadInput(
            f"network.augmentation_features={wanted}: {type(augmentation).__name__} tells it {augmentation.features} "
            "numbers of how an image was changed; set it to that, with a network that has the option."
        )
    with torch.device("cpu"):
        try:
            augmentation(torch.zeros(2, *shape), Noise(0, torch.arange(2), AUGMENTING))
        except ValueError as error:
            raise BadInput(f"augmentation.{error}") from None
    return augmentation


def build_objective(config: Config) -> Objective:
    """The objective of a checked configuration; its own weights, if any, are a function of `seed`.

    Raises:
        BadInput: It refuses its options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((config["seed"] + 1) % 2**63)
        objective: Objective = construct(config["objective"], "objective")
    return objective


@torch.no_grad()
def check_model(model: Model, objective: Objective) -> None:
    """Refuse parts of a model, which may be on the meta device, that do not go together.

    Raises:
        BadInput: Says which.
    """
    denoiser, schedule = model.denoiser, model.denoiser.schedule
    try:
        objective.check(denoiser)
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
        det = determinant(ends, denoiser.parameterization(ends))
        label = denoiser.time_label(ends)
    except ValueError as error:
        raise BadInput(str(error)) from None
    for i, end in enumerate(("t_min", "t_max")):
        alpha, sigma = float(ends.alpha[i]), float(ends.sigma[i])
        where = f"{type(schedule).__name__} has alpha={alpha:.3g}, sigma={sigma:.3g} at {end}"
        if not (bool(det[i].isfinite()) and abs(float(det[i])) > 0):
            raise BadInput(
                f"parameterization={_called(denoiser.parameterization)}: x0 and eps cannot be told from its output "
                f"there, as schedule {where}; choose parameterization=v, edm or velocity, or set schedule.{end}."
            )
        if not bool(label[i].isfinite()):
            raise BadInput(
                f"denoiser.time_label={type(denoiser.time_label).__name__}: it is infinite there, as schedule {where}; "
                f"choose denoiser=default, or set schedule.{end}."
            )
    check_network(model)


@torch.no_grad()
def check_network(model: Model) -> None:
    """Refuse a network, which may be on the meta device, that does not take what codec and conditioner give.

    Raises:
        BadInput: Says which.
    """
    denoiser, conditioner = model.denoiser, model.conditioner
    device = next(denoiser.parameters()).device
    x = torch.zeros(2, *model.shape, device=device)
    try:
        cond = conditioner.given(Clean.blank(2, model.codec.shape, device))
    except ValueError as error:
        raise BadInput(str(error)) from None
    try:
        out = denoiser.network(x, torch.zeros(2, device=device), cond)
    except ValueError as error:
        raise BadInput(f"network: {error}") from None
    wanted = 1 if denoiser.variance is None else denoiser.variance.outputs
    if out.shape != (2, wanted * model.shape[0], *model.shape[1:]):
        raise BadInput(
            f"network.outputs: {type(denoiser.network).__name__} maps samples of shape {list(model.shape)} to "
            f"{list(out.shape[1:])}, where {wanted} x {model.shape[0]} channels are needed; choose the variance by "
            "variance=..., which sets it."
        )


def check_scales(model: Model, scales: Sequence[float], asked: str) -> None:
    """Refuse scales of classifier-free guidance that a model does not have; `asked` is the option and its value.

    Raises:
        BadInput: Says which.
    """
    cond = model.conditioner.given(Clean.blank(1, model.codec.shape))
    for scale in scales:
        try:
            bind(model.denoiser, cond, model.conditioner.null(torch.arange(1)), scale)
        except ValueError as error:
            raise BadInput(f"{asked}:{str(error).partition(':')[2]}") from None


def check_conditions(model: Model) -> None:
    """Refuse a model that knows no conditions of samples.

    Raises:
        BadInput: It does not.
    """
    try:
        model.conditioner.sample(torch.arange(1))
    except ValueError as error:
        raise BadInput(str(error)) from None


def build_samplers(nodes: Mapping[str, Any]) -> dict[str, Sampler]:
    """Name to sampler."""
    return {name: construct(node, f"sampler {name}") for name, node in nodes.items()}


def sampler_nodes(names: list[str], option: str = "evaluation.samplers") -> dict[str, Any]:
    """Label to configuration, for names of `conf/sampler`, each with a grid behind an @ if not its own.

    The grid is a name of `conf/spacing`, or a JSON file as `grid=...` writes it: `ddim@karras`, `ddim@path/to/it.json`
    (whose label ends in the file's stem).

    Raises:
        BadInput: A name is unknown or stands twice.
    """
    nodes: dict[str, Any] = {}
    for name in names:
        rule, at, grid = name.partition("@")
        label, node = rule, overrides.choice("sampler", rule)
        if at:
            own = grid.endswith(".json")
            spacing = {"_target_": _FROM_FILE, "path": grid} if own else overrides.choice("spacing", grid)
            node = {**node, "spacing": spacing}
            label = f"{rule}@{Path(grid).stem if own else grid}"
        if label in nodes:
            raise BadInput(f"{option}={names}: '{label}' stands there more than once.")
        nodes[label] = node
    check(nodes)
    return nodes


def metric_nodes(evaluation: Evaluation) -> dict[str, Any]:
    """Name to configuration, for names of `conf/metric`, with the options that are set beside them.

    Raises:
        BadInput: A name is unknown or stands twice, or an option is unknown.
    """
    nodes = _nodes("metric", evaluation.metrics)
    for name, options in evaluation.metric_options.items():
        if name not in nodes:
            raise BadInput(
                f"evaluation.metric_options.{name}: it is not one of evaluation.metrics={evaluation.metrics}."
            )
        nodes[name] |= options
        check({f"evaluation.metric_options.{name}": nodes[name]})
    return nodes


def given_reference(evaluation: Evaluation) -> Given | None:
    """The reference that the user names."""
    if evaluation.reference is None:
        return None
    return Given(Path(evaluation.reference), evaluation.reference_n, any_data=evaluation.reference_data == "any")


def build_extractor(
    config: Config,
    evaluation: Evaluation,
    num_samples: int | None,
    train: DataSet | None = None,
    option: str = "evaluation",
) -> Extractor:
    """The maker of the scorer of a checked configuration, which can score `num_samples` of its samples.

    Args:
        config: The configuration.
        evaluation: Its node `evaluation`.
        num_samples: Samples a cell, where they are known.
        train: The training data, where they are loaded.
        option: What the node is called, for messages.

    Raises:
        BadInput: It cannot, or the reference is not of the training data, where they are given.
    """
    extractor: Extractor = construct(config["evaluation"]["extractor"], "evaluation.extractor")
    given = given_reference(evaluation)
    try:
        extractor.check(config["data"]["shape"], build_metrics(evaluation), num_samples, given)
        if given is not None and train is not None:
            references.check_data(given, train)
    except ValueError as error:
        raise BadInput(str(error).replace("evaluation.", f"{option}.")) from None
    return extractor


def build_metrics(evaluation: Evaluation) -> dict[str, Metric]:
    """Name to metric.

    Raises:
        BadInput: A name or an option is unknown or out of range.
    """
    nodes = metric_nodes(evaluation)
    return {name: construct(node, f"evaluation.metric_options.{name}") for name, node in nodes.items()}


def profile_name(asked: str | None, names: list[str], option: str) -> str:
    """The EMA profile asked for, or the first one.

    Raises:
        BadInput: There is no such profile.
    """
    if asked is None:
        return names[0]
    if asked not in names:
        raise BadInput(f"{option}={asked}: unknown; {closest(asked, names)}allowed: {', '.join(names)}.")
    return asked


def _nodes(group: str, names: list[str]) -> dict[str, Any]:
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"evaluation.{group}s={names}: '{name}' stands there more than once.")
    nodes = {name: overrides.choice(group, name) for name in names}
    check(nodes)
    return nodes


def _called(function: Any) -> str:
    """The name of a function, or of the function in a partial."""
    return str(getattr(getattr(function, "func", function), "__name__", type(function).__name__))
