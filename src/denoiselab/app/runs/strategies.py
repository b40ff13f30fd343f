"""How a training is spread over devices: the strategies of Lightning's that it knows, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiselab.errors import BadInput

FSDP2 = "fsdp2"
_SHARDED = "denoiselab.training.strategies.Sharded"

# Lightning's strategies whose ranks hold parts of the weights, in ways that averages and checkpoints do not know.
_OTHERS = ("fsdp", "deepspeed", "model_parallel")


def is_sharded(trainer: Mapping[str, Any]) -> bool:
    """Whether the strategy of a Trainer's options spreads weights over devices, as `trainer=fsdp2` does."""
    strategy = trainer["strategy"]
    return (strategy.get("_target_") if isinstance(strategy, Mapping) else strategy) in (FSDP2, _SHARDED)


def check_strategy(trainer: Mapping[str, Any]) -> None:
    """Check the strategy of a Trainer's options.

    Raises:
        BadInput: If averages and checkpoints are wrong with it, or it does not go with other options.
    """
    strategy = trainer["strategy"]
    name = strategy.get("_target_", "") if isinstance(strategy, Mapping) else str(strategy)
    if (name.startswith(_OTHERS) and name != FSDP2) or name.endswith(
        ("ModelParallelStrategy", "FSDPStrategy", "DeepSpeedStrategy")
    ):
        raise BadInput(f"trainer.strategy={name}: averages and checkpoints do not know its parts; use trainer=fsdp2.")
    static = isinstance(strategy, Mapping) and strategy.get("static_graph")
    if static and trainer["accumulate_grad_batches"] > 1:
        raise BadInput(
            f"trainer.strategy.static_graph=true: with trainer.accumulate_grad_batches="
            f"{trainer['accumulate_grad_batches']} gradients would not be averaged over devices; leave it out."
        )


def check_checkpoints(trainer: Mapping[str, Any], callbacks: Mapping[str, Any]) -> None:
    """Check that checkpoints can be written as they are to be.

    Raises:
        BadInput: If a training that is not sharded would have to write them meanwhile.
    """
    if not is_sharded(trainer) and (callbacks.get("checkpoints") or {}).get("asynchronous"):
        raise BadInput(
            "callbacks.checkpoints.asynchronous=true: it is for the directories of sharded trainings, trainer=fsdp2; "
            "others write one file, and wait."
        )


def built(strategy: Any) -> Any:
    """The strategy that the Trainer is given in place of one of the names that Lightning does not know."""
    if strategy != FSDP2:
        return strategy
    from denoiselab.training.strategies import Sharded  # imports Lightning

    return Sharded()
