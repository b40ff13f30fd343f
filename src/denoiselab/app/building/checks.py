"""The model of a configuration, and whether its parts go together."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.app.building import rehearsal
from denoiselab.codecs import Identity, ReconstructionLoss
from denoiselab.conditioners import Clean
from denoiselab.denoiser import Denoiser, second_time
from denoiselab.errors import BadInput
from denoiselab.guidance import Auto, Guidance
from denoiselab.model import Model
from denoiselab.nodes.contracts import described
from denoiselab.objectives import CrossEntropy, Objective
from denoiselab.parameterizations import determinant
from denoiselab.samplers import Sampler, check_distilled
from denoiselab.trained import ClassifierModel, FirstStage, Trained

Config = Mapping[str, Any]

# Weights times pixels of a network whose forward pass takes some 10 ms.
_SMALL = 2**27


@torch.no_grad()
def check_model(model: Trained, objective: Objective | ReconstructionLoss) -> None:
    """Refuse parts of a model that do not go together or break their contracts.

    Args:
        model: May be on the meta device.
        objective: On the CPU.
    """
    if isinstance(model, FirstStage):
        check_first_stage(model, objective)
        return
    assert isinstance(objective, Objective)
    if isinstance(model, ClassifierModel):
        check_classifier(model, objective)
        return
    _check_second_time(model.denoiser.network, objective)
    if objective.needs_null and all(field is None for field in model.conditioner.null(torch.arange(1))):
        raise BadInput(
            "objective.guidance: training with guidance evaluates the null condition, and this conditioner has none; "
            "choose conditioner=label, or give objective.guidance=1 and objective.kept=0."
        )
    try:
        objective.check(model.denoiser)
    except ValueError as error:
        raise BadInput(str(error)) from None
    check_ends(model.denoiser)
    rehearsal.check_objective(objective, model.denoiser, model.shape[0], len(model.shape))
    check_network(model)


def _check_second_time(network: nn.Module, objective: Objective) -> None:
    """Refuse a flow map's objective without a network that takes a second time, and the reverse."""
    name, kind = type(objective).__name__, type(network).__name__
    if objective.second_time and not second_time(network):
        raise BadInput(
            f"network.second_time: objective {name} trains a flow map, and {kind} takes no second time; give "
            "network.second_time=true, which networks mlp, dit, uvit, ddpm, adm, ncsnpp and unet_1d take."
        )
    if second_time(network) and not objective.second_time:
        raise BadInput(
            f"network.second_time=true: objective {name} does not train a second time; leave it out, or choose "
            "objective=mean_flow, improved_mean_flow or shortcut."
        )


def check_first_stage(model: FirstStage, objective: nn.Module) -> None:
    """As `check_model`, of a first stage."""
    assert isinstance(objective, ReconstructionLoss)
    network = model.autoencoder
    if tuple(network.shape) != tuple(model.shape):
        raise BadInput(f"network.shape={list(network.shape)}: it must be data.shape={list(model.shape)}.")
    try:
        objective.check(network, model.shape)
    except ValueError as error:
        raise BadInput(f"objective.{error}") from None


@torch.no_grad()
def check_classifier(model: ClassifierModel, objective: Objective) -> None:
    """As `check_model`, of a classifier."""
    classifier, name = model.classifier, type(model.classifier.network).__name__
    if not isinstance(objective, CrossEntropy):
        raise BadInput(
            f"objective={type(objective).__name__}: it trains a denoiser, and denoiser=classifier is none; choose "
            "objective=cross_entropy."
        )
    try:
        objective.check(classifier)
        x, schedule = torch.zeros(2, *model.shape, device=model.device), classifier.schedule
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64, device="cpu"))
        label = classifier.time_label(ends)
        out = classifier.network(x, torch.zeros(2, device=model.device))
    except ValueError as error:
        raise BadInput(str(error)) from None
    except RuntimeError as error:
        raise BadInput(
            f"network: its sizes do not fit samples of shape {list(model.shape)} ({' '.join(str(error).split())})."
        ) from None
    if not bool(label.isfinite().all()):
        raise BadInput(
            f"denoiser.time_label={type(classifier.time_label).__name__}: it is infinite at an end of schedule "
            f"{type(schedule).__name__}; choose denoiser=classifier."
        )
    if not isinstance(out, Tensor) or out.shape != (2, classifier.num_classes):
        raise BadInput(
            f"network={name}: a classifier's network maps samples (B, *) to logits (B, {classifier.num_classes}); "
            f"found {rehearsal.found(out)} for two; choose one of the group classifier, as in classifier@network=adm."
        )


@torch.no_grad()
def check_ends(denoiser: Denoiser, *, advice: bool = True) -> None:
    """Refuse a denoiser whose prediction or time label is infinite at an end of its schedule.

    Args:
        denoiser: May be on the meta device.
        advice: Whether the message says what else to choose.
    """
    schedule = denoiser.schedule
    try:
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
                f"parameterization={described(denoiser.parameterization)}: x0 and eps do not follow from its output "
                f"there, as schedule {where}"
                + (f"; choose parameterization=v, edm or velocity, or set schedule.{end}." if advice else ".")
            )
        if not bool(label[i].isfinite()):
            raise BadInput(
                f"denoiser.time_label={type(denoiser.time_label).__name__}: it is infinite there, as schedule {where}"
                + (f"; choose denoiser=default, or set schedule.{end}." if advice else ".")
            )


@torch.no_grad()
def check_network(model: Model) -> None:
    """Refuse a network, which may be on the meta device, that does not take what codec and conditioner give."""
    denoiser, conditioner, device = model.denoiser, model.conditioner, model.device
    try:
        x, blank = torch.zeros(2, *model.shape, device=device), Clean.blank(2, model.codec.shape, device)
    except (RuntimeError, TypeError):
        raise BadInput(f"network: samples of shape {list(model.shape)} are too large to allocate.") from None
    try:
        cond = conditioner.given(blank)
    except ValueError as error:
        raise BadInput(str(error)) from None
    rehearsal.check_condition(conditioner, cond)
    try:
        out = _output_of_zeros(model)
        if out is None:
            out = denoiser.network(x, torch.zeros(2, device=device), cond)
    except ValueError as error:
        raise BadInput(f"network: {error}") from None
    except RuntimeError as error:
        given = {name: list(value.shape[1:]) for name, value in cond._asdict().items() if value is not None}
        raise BadInput(
            f"network: its sizes do not fit samples of shape {list(model.shape)}"
            + "".join(f", {name} of shape {shape}" for name, shape in given.items())
            + f" ({' '.join(str(error).split())})."
        ) from None
    wanted = 1 if denoiser.variance is None else denoiser.variance.outputs
    if not isinstance(out, Tensor):
        raise BadInput(
            f"network={type(denoiser.network).__name__}: must return a tensor (B, {wanted} x {model.shape[0]}, ...); "
            f"found {rehearsal.found(out)}."
        )
    if out.shape != (2, wanted * model.shape[0], *model.shape[1:]):
        raise BadInput(
            f"network.outputs: {type(denoiser.network).__name__} maps samples of shape {list(model.shape)} to "
            f"{list(out.shape[1:])}, where {wanted} x {model.shape[0]} channels are needed; choose the variance by "
            "variance=..., which sets it."
        )


def _output_of_zeros(model: Model) -> Any:
    """What a small network on the meta device returns where its weights are zeros on the CPU; None for others.

    Arithmetic on the meta device imports torch._dynamo, which takes 2 s. What fails here is reported there.
    """
    network = model.denoiser.network
    size = sum(weight.numel() for weight in network.parameters()) * math.prod(model.shape[1:])
    if model.device.type != "meta" or size > _SMALL:
        return None
    try:
        zeros = copy.deepcopy(network).to_empty(device="cpu")
        for tensor in itertools.chain(zeros.parameters(), zeros.buffers()):
            tensor.zero_()
        cond = model.conditioner.given(Clean.blank(2, model.codec.shape))
        return zeros(torch.zeros(2, *model.shape), torch.zeros(2), cond)
    except Exception:
        return None


def check_guidance(model: Model, guidance: Sequence[Guidance], asked: str) -> None:
    """Refuse guidance that a model does not have; `asked` is the option and its value."""
    cond, guided = model.conditioner.given(Clean.blank(1, model.codec.shape)), model.conditioner.guided_channels
    if guided is not None and guided > model.shape[0]:
        raise BadInput(f"conditioner.guided_channels={guided}: the network has {model.shape[0]}; give at most that.")
    for one in guidance:
        try:
            one.guider.check(one.scale, cond, model.conditioner.null(torch.arange(1)).filled(cond))
        except ValueError as error:
            raise BadInput(f"{asked}:{str(error).partition(':')[2]}") from None


def check_sampler(
    sampler: Sampler, model: Model, guidance: Sequence[Guidance], option: str | None = None, name: str = ""
) -> None:
    """Refuse a sampler that does not suit a model.

    Args:
        sampler: Of any kind.
        model: With its codec.
        guidance: Of the samples.
        option: The node whose `samplers` list it, for messages; None for the `sampler` of samples.
        name: It is listed under.

    Raises:
        BadInput: If its threshold is for the range of images and the network's data are no images, guidance does not
            work with it, or it measures the model (without guidance) and a scale is not 1.
    """
    pixels = isinstance(model.codec, Identity) and len(model.shape) == 3
    if sampler.threshold is not None and not pixels:
        where, instead = (
            ("sampler.threshold", "give sampler.threshold=null")
            if option is None
            else (f"{option}.samplers: {name}", "name one that has no threshold instead, such as ancestral for ddpm")
        )
        sees = f"what {type(model.codec).__name__} makes of them"
        if isinstance(model.codec, Identity):
            sees = f"data of shape {list(model.shape)}, which are none"
        raise BadInput(
            f"{where}: {type(sampler.threshold).__name__} keeps x0 in the range of images; the network's input is "
            f"{sees}; {instead}."
        )
    if sampler.measurement is not None and any(one.acts for one in guidance):
        where = "guidance" if option is None else f"{option}.guidance"
        scales = [one.scale for one in guidance]
        raise BadInput(f"{where}={scales}: {type(sampler).__name__} measures the model without guidance; use 1.")


def check_steps(
    sampler: Sampler, model: Model, guidance: Sequence[Guidance], steps: int | None = None, where: str = ""
) -> None:
    """Refuse a sampler of so many steps, its own by default, that a model or its guidance does not work with.

    `where` names the cell.

    Raises:
        BadInput: If a guider refuses the sampler, or its interval has none of the steps, or the model was distilled for
            others.
    """
    for one in guidance:
        try:
            one.check(sampler, model.denoiser.schedule, steps)
            check_distilled(sampler, model.denoiser.schedule, steps, model.grid)
        except ValueError as error:
            raise BadInput(f"{where}{error}") from None


def check_negative(model: Model, guidance: Guidance) -> None:
    """Refuse negative prompts that have no effect."""
    negative = getattr(model.conditioner, "negative_prompts", None)
    if negative is None or (guidance.acts and not isinstance(guidance.guider, Auto)):
        return
    why = "guidance=1 evaluates no" if not guidance.acts else "the guide has the prompts themselves and no"
    raise BadInput(
        f"conditioner.negative_prompts={list(negative)}: {why} null condition, whose place they take; use guidance "
        "other than 1 by a guider such as cfg, or leave them out."
    )


def check_conditions(model: Model) -> None:
    """Check that the conditioner can supply conditions of samples."""
    try:
        model.conditioner.sample(torch.arange(1))
    except ValueError as error:
        raise BadInput(str(error)) from None
