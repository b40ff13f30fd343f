"""What a training step computes and keeps, found on tensors without numbers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from denoiselab.codecs import Identity
from denoiselab.conditioners import Clean, Conditioner
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.summary import Operations
from denoiselab.noise import TRAINING, Noise
from denoiselab.trained import Trained, batch_loss
from denoiselab.trained.half import HalfSteps

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class StepCosts(NamedTuple):
    """The costs of a training step.

    Attributes:
        parameters: Numbers in what is trained, those that stay as they are too; averages are of these.
        optimized: Numbers that the optimizer changes, the objective's own included.
        flops: Of an image, forward and backward, in convolutions, matrix products and attention, as the objective calls
            the network; a multiplication and its addition count as two. Without a codec, and without what encodes
            conditions; activations that are computed again count once.
        activation_bytes: Of an image: what is kept for the backward pass.
        fixed_bytes: What is kept whatever the batch, such as weights in the precision of the computation.
    """

    parameters: int
    optimized: int
    flops: float
    activation_bytes: float
    fixed_bytes: float


def step_costs(model: Trained, objective: nn.Module, precision: str = "32-true", images_seen: int = 0) -> StepCosts:
    """The costs of a training step of a model, which may be on the meta device and stays as it is.

    Args:
        model: What is trained.
        objective: Its loss, on the CPU.
        precision: Of the Trainer.
        images_seen: At that step: adversaries begin late.

    Raises:
        RuntimeError: If the objective's steps depend on numbers, so that nothing can be found without them.
    """
    parts = _faked((dataclasses.replace(model, conditioner=_Blank(model), codec=Identity(model.shape)), objective))
    with torch.enable_grad():
        (few, flops), (more, doubled) = (_step(*parts, count, precision, images_seen) for count in (2, 4))
        if _keep_all(parts[0].trained):
            flops, doubled = (_step(*parts, count, precision, images_seen)[1] for count in (2, 4))
    slope = (more - few) / 2
    trained, own = [*model.trained.parameters()], [*objective.parameters()]
    optimized = sum(parameter.numel() for parameter in (*trained, *own) if parameter.requires_grad)
    return StepCosts(sum(map(torch.numel, trained)), optimized, (doubled - flops) / 2, slope, few - 2 * slope)


def _step(model: Trained, objective: nn.Module, count: int, precision: str, images_seen: int) -> tuple[int, int]:
    """Bytes kept for the backward pass, and operations, of a step of `count` images."""
    loss = batch_loss(model, objective)
    state = chain(model.trained.parameters(), model.trained.buffers(), objective.parameters(), objective.buffers())
    weights = {tensor.untyped_storage()._cdata for tensor in state}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    counter = Operations()
    batch: Any = {
        "position": torch.arange(count),
        "images": torch.zeros(count, *model.shape),
        "labels": torch.zeros(count, dtype=torch.int64),
    }
    cast: AbstractContextManager[Any] = nullcontext()
    norms: AbstractContextManager[Any] = nullcontext()
    if precision in _MIXED:
        cast, norms = torch.autocast("cpu", _MIXED[precision]), _Norms()
    steps = HalfSteps(model.trained.get_submodule("network")) if precision == "bf16-true" else None
    if steps is not None:
        steps.begin()
    with torch.random.fork_rng(devices=[]), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        with cast, norms:
            total = loss.loss(batch, Noise(0, batch["position"], TRAINING), images_seen).total
        held = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
        total.backward()
    if steps is not None:
        steps.end()
    return held, counter.total


class _Norms(TorchFunctionMode):
    """Takes norms in float32, as mixed precision does on GPUs, while on the CPU it does not."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (F.layer_norm, F.group_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class _Blank(Conditioner):
    """Gives zeros of the shapes that a model's conditioner gives."""

    def __init__(self, model: Trained) -> None:
        self._given = lambda count: model.conditioner.given(Clean.blank(count, model.codec.shape))
        self._null = lambda count: model.conditioner.null(torch.arange(count))
        self.names = model.conditioner.names

    def given(self, clean: Clean) -> Conditioning:
        return _zeros(self._given, len(clean.images))

    def null(self, index: Tensor) -> Conditioning:
        return _zeros(self._null, len(index))

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        return self.given(clean)

    def sample(self, index: Tensor) -> Conditioning:
        raise NotImplementedError


@torch.no_grad()
def _zeros(conditions: Callable[[int], Conditioning], count: int) -> Conditioning:
    return Conditioning(*(one if one is None else torch.zeros(one.shape, dtype=one.dtype) for one in conditions(count)))


def _keep_all(module: nn.Module) -> bool:
    """Let a module keep all activations; whether it computed some again."""
    found = False
    for part in module.modules():
        for name, off in (("checkpoint_levels", frozenset()), ("checkpointed", False)):
            if getattr(part, name, None):
                setattr(part, name, off)
                found = True
    return found


def _faked(parts: tuple[Trained, nn.Module]) -> tuple[Trained, nn.Module]:
    """A copy of a model and its objective whose weights are fake tensors on the CPU, in training.

    There attention keeps no matrix of its weights.
    """
    model, objective = parts
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    teacher = getattr(objective, "teacher", None) or nn.Module()
    states = (model.trained.parameters(), model.trained.buffers(), objective.parameters(), teacher.parameters())
    for tensor in chain(*states, teacher.buffers()):
        with mode:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    kept = {id(one): one for one in (model.conditioner, model.codec)}
    out: tuple[Trained, nn.Module] = copy.deepcopy(parts, {**kept, **memo})
    out[0].trained.train()
    out[1].train()
    return out
