"""What callbacks of Lightning's may monitor, checked before the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor

from denoiselab.app.config.settings import Config
from denoiselab.errors import BadInput


def check_monitors(callbacks: Mapping[str, pl.Callback], config: Config, logged: Sequence[str]) -> None:
    """Refuse a callback that monitors what the run does not log: Lightning would fail at the end of the training.

    Callbacks of other packages, and `LearningRateMonitor`, may log further metrics: with one of them nothing is
    refused.

    Args:
        callbacks: By name.
        config: Of the run.
        logged: Names of what `callbacks.held_out` logs.
    """
    if any(map(_logs_others, callbacks.values())):
        return
    every = (config["callbacks"].get("held_out") or {}).get("every_images")
    names = logged if every is not None and every <= config["max_images"] else []
    nothing = "nothing, as callbacks.held_out needs held-out data and every_images of at most max_images"
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in names:
            allowed = ", ".join(names) or nothing
            raise BadInput(f"callbacks.{name}.monitor={monitor}: the run does not log it; allowed: {allowed}.")
        at_end = config["callbacks"][name].get("check_on_train_epoch_end")
        if isinstance(callback, EarlyStopping) and at_end is not False:
            raise BadInput(
                f"callbacks.{name}.check_on_train_epoch_end={at_end}: a training is one epoch, so it would be checked "
                "at the end alone; set false to have it checked after each evaluation of callbacks.held_out."
            )


def _logs_others(callback: pl.Callback) -> bool:
    ours = type(callback).__module__.startswith(("denoiselab.", "pytorch_lightning."))
    return not ours or isinstance(callback, LearningRateMonitor)
