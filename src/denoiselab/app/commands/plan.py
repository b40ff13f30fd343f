"""What a training costs, before it starts: found from shapes alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from denoiselab.app.building import checks, parts
from denoiselab.app.config.settings import Config, TrainSettings, parse
from denoiselab.app.runs.devices import check_precision, check_shares
from denoiselab.app.runs.strategies import is_sharded
from denoiselab.cleaning import aligned
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.from_config import build
from denoiselab.model import Model
from denoiselab.networks.base import blocks
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.objectives import Objective
from denoiselab.trained.costs import StepCosts, step_costs
from denoiselab.training.gpus import Gpu, named

# What train.py does not have.
_OWN = ("gpu", "mfu", "image_bytes")

# Nodes that cost nothing that is planned; their options need not be given.
_ASIDE = ("data", "evaluation", "callbacks", "logger", "paths", "trainer", "augmentation")

# Of a device's memory: the rest is for the library's own, what is kept for a moment, and fragments.
_USABLE = 0.9


@dataclass(frozen=True)
class Plan:
    """What a training costs.

    Args:
        costs: Of its steps.
        gpu: The device.
        world: Devices.
        batch: Images of an optimizer step.
        micro: Images that a device takes at a time.
        memory: Part to bytes of a device, but activations.
        step_seconds: Of an optimizer step, by operations alone.
        seconds: Of the whole training.
        checkpoint_bytes: Of one checkpoint, not sharded.
        image_bytes: Of an image as it is read.
        nodes: Machines.
        images: Of the whole training.
    """

    costs: StepCosts
    gpu: Gpu
    world: int
    batch: int
    micro: int
    memory: dict[str, float]
    step_seconds: float
    seconds: float
    checkpoint_bytes: float
    image_bytes: float
    nodes: int
    images: int

    @property
    def activations(self) -> float:
        """Bytes of what a device keeps for the backward pass."""
        return self.costs.activation_bytes * self.micro

    @property
    def largest(self) -> int:
        """Images that a device can take at a time; 0 if weights and the like do not fit."""
        free = _USABLE * self.gpu.memory - sum(self.memory.values())
        return max(0, int(free // self.costs.activation_bytes))

    @property
    def images_per_second(self) -> float:
        """Of all devices."""
        return self.batch / self.step_seconds


def check(config: Config, *, sweeping: bool = False) -> Gpu:
    """Check what is planned; the GPU that is asked for."""
    settings = _settings(config)
    gpu = named(str(config["gpu"]))
    mfu, image_bytes, trainer = config["mfu"], config["image_bytes"], config["trainer"]
    if not isinstance(mfu, int | float) or isinstance(mfu, bool) or not 0 < mfu <= 1:
        raise BadInput(f"mfu={mfu}: it is a share of the peak, more than 0 and at most 1; the default is 0.4.")
    known = isinstance(image_bytes, int | float) and not isinstance(image_bytes, bool)
    if image_bytes is not None and not (known and image_bytes > 0):
        raise BadInput(f"image_bytes={image_bytes}: it must be positive, or null for a byte a number of data.shape.")
    precision = check_precision(trainer)
    if precision == "32-true":
        raise BadInput(f"trainer.precision={precision}: peaks are of half precision; give bf16-mixed or 16-mixed.")
    for name in ("devices", "num_nodes", "accumulate_grad_batches"):
        if not isinstance(trainer[name], int) or isinstance(trainer[name], bool) or trainer[name] < 1:
            raise BadInput(f"trainer.{name}={trainer[name]}: a plan needs their number, from 1.")
    check_shares(trainer["devices"], trainer, settings.batch_size)
    return gpu


def run(config: Config, directory: Path | None = None) -> Plan:
    """Print the plan."""
    plan = made(config)
    console().print(shown(plan, config))
    if not plan.largest:
        console(stderr=True).print(
            "weights, gradients, optimizer and averages do not fit: shard them, or choose fewer averages."
        )
    elif plan.micro > plan.largest:
        console(stderr=True).print(
            f"{plan.micro:,} images at a time do not fit: more trainer.accumulate_grad_batches or devices, or "
            "network.checkpoint_levels=all."
        )
    return plan


def made(config: Config) -> Plan:
    """The plan of a checked configuration; no network is built in memory."""
    gpu, settings = check(config), _settings(config)
    check_nodes({name: node for name, node in config.items() if name not in (*_ASIDE, *_OWN)})
    objective = parts.build_objective(config)
    with torch.device("meta"):
        model = build(config)
    checks.check_model(model, objective)
    taught = isinstance(objective, Objective) and objective.uses_teacher
    if isinstance(objective, Objective) and isinstance(model, Model) and taught:  # by a model of the same size
        objective.take_teacher(copy.deepcopy(model.denoiser))
    trainer = config["trainer"]
    world, precision = trainer["devices"] * trainer["num_nodes"], str(trainer["precision"])
    try:
        costs = step_costs(model, objective, precision)
    except RuntimeError as error:
        raise BadInput(
            f"objective={type(objective).__name__}: cannot be planned ({str(error).splitlines()[0]})."
        ) from None
    optimizer = costs.optimized * _optimizer_bytes(config["optimizer"])
    averages = 4.0 * costs.parameters * len(settings.ema.profiles)
    weights = 4.0 * (costs.parameters + sum(map(torch.numel, objective.parameters())))
    memory = {"weights": weights, "gradients": 4.0 * costs.optimized, "optimizer": optimizer, "averages": averages}
    if is_sharded(trainer):
        memory = {name: size / world for name, size in memory.items()}
        largest = max((sum(map(torch.numel, block.parameters())) for block in blocks(model.trained)), default=0)
        memory["gathered blocks"] = 2 * 4.0 * largest  # one in use, one on its way
    elif world > 1:
        memory["gradients on their way"] = memory["gradients"]
    memory["weights in half precision"] = costs.fixed_bytes
    if taught:
        memory["teacher"] = 4.0 * costs.parameters
    shares = world * trainer["accumulate_grad_batches"]
    step_seconds = settings.batch_size * costs.flops / (world * gpu.peak * config["mfu"])
    numbers = torch.Size(config["data"]["shape"]).numel()
    return Plan(
        costs=costs,
        gpu=gpu,
        world=world,
        batch=settings.batch_size,
        micro=settings.batch_size // shares,
        memory=memory,
        step_seconds=step_seconds,
        seconds=step_seconds * settings.max_images / settings.batch_size,
        checkpoint_bytes=weights + optimizer + averages,
        image_bytes=float(numbers if config["image_bytes"] is None else config["image_bytes"]),
        nodes=trainer["num_nodes"],
        images=settings.max_images,
    )


def shown(plan: Plan, config: Config) -> str:
    """The plan as a table."""
    costs, speed, mfu = plan.costs, plan.images_per_second, config["mfu"]
    devices, read = plan.world // plan.nodes, speed * plan.image_bytes / 1e6
    total = sum(plan.memory.values()) + plan.activations
    rows = [
        ["devices", f"{plan.world} x {plan.gpu.title}", f"{plan.nodes} node(s) of {devices}"],
        ["parameters", f"{costs.parameters / 1e6:,.2f} M", f"{costs.optimized / 1e6:,.2f} M of them trained"],
        ["operations", f"{costs.flops / 1e9:,.4g} GFLOP", "an image, forward and backward, as the objective calls it"],
        ["batch", f"{plan.batch:,}", f"{plan.micro:,} at a time on a device"],
        ["step", f"{plan.step_seconds * 1e3:,.1f} ms", f"at {mfu:.0%} of {plan.gpu.peak / 1e12:,.0f} TFLOP/s"],
        ["speed", f"{speed:,.0f} images/s", f"{speed / plan.world:,.1f} a device"],
        ["training", f"{plan.seconds / 3600:,.1f} h", f"{plan.images:,} images, evaluations aside"],
        ["", f"{plan.seconds / 3600 * plan.world:,.0f} GPU hours", ""],
        ["memory", "GB a device", "10^9 bytes"],
        *([f"  {name}", f"{size / 1e9:,.2f}", ""] for name, size in plan.memory.items() if size),
        ["  activations", f"{plan.activations / 1e9:,.2f}", f"{costs.activation_bytes / 1e9:,.4f} an image"],
        ["  in all", f"{total / 1e9:,.2f}", f"of {plan.gpu.memory / 1e9:,.0f}"],
        ["fits", f"{plan.largest:,} images", f"at a time on a device, in {_USABLE:.0%} of its memory"],
        ["checkpoint", f"{plan.checkpoint_bytes / 1e9:,.2f} GB", "weights, optimizer, averages"],
        ["data", f"{read:,.1f} MB/s", f"{read / plan.nodes:,.1f} a node"],
    ]  # fmt: skip
    lines = aligned([row[:2] for row in rows]).splitlines()
    return "\n".join(f"{line}  {row[2]}".rstrip() for line, row in zip(lines, rows, strict=True))


def _settings(config: Config) -> TrainSettings:
    return parse(TrainSettings, {key: value for key, value in config.items() if key not in _OWN})


def _optimizer_bytes(node: dict[str, Any]) -> float:
    """Bytes that an optimizer keeps of each number, found from one step of it."""
    parameter = torch.nn.Parameter(torch.ones(64, 64))
    optimizer = parts.build_optimizer(node, [parameter])([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [value for one in optimizer.state.values() for value in one.values() if isinstance(value, torch.Tensor)]
    return sum(value.nbytes for value in state if value.numel() > 1) / parameter.numel()
