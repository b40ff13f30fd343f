"""What a task of `sample.py` is, and what tasks share: a checkpoint that is opened, a new folder that is written."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch

from denoiselab import progress
from denoiselab.app.building import checks
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.rehearsal import bound_decoding
from denoiselab.app.config import overrides
from denoiselab.app.config.early import check_new
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.paths import checkpoint_file, device_of, new_folder
from denoiselab.cleaning import path_part
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.evaluation.verdicts.compare import LEAST_LEVEL
from denoiselab.files import sha256_of
from denoiselab.guidance import Guidance
from denoiselab.model import Model
from denoiselab.nodes.instantiate import construct
from denoiselab.pretrained import Loaded, read_weights
from denoiselab.samplers import Sampler
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.interruption import Interruption


class Task(ABC):
    """What `sample.py` does with a checkpoint.

    A task is a dataclass: its fields are its options, with their types, ranges and defaults. A file of `conf/task`
    names the class as `_target_`, and composes the parts of the configuration that the task takes beside its own
    options: `sampler`, `guider`, `data`, `logger`, `classifier_guidance`, `conditioner`. An option or a part that a
    task does not have cannot be set with it.

    Every task takes `ckpt` or `import`, `weights`, `out`, `accelerator` and `log_dir` (`SampleSettings`).
    """

    # Whether it takes lists of checkpoints and of weights.
    several: ClassVar[bool] = False
    # Whether processes that torchrun starts share the work.
    shared: ClassVar[bool] = False
    # Whether the same command goes on in an `out` that exists; else that is refused before torch is imported.
    goes_on: ClassVar[bool] = False
    # What to change if memory does not suffice.
    less_memory: ClassVar[str] = "a smaller batch_size"

    def check(self, asked: SampleSettings) -> None:  # noqa: B027  # most have nothing to add
        """Refuse what can be refused before any file is read.

        The types and ranges of options have been checked, and the sampler and other parts could be built.

        Raises:
            BadInput: If an option is wrong; the message names it.
        """

    @abstractmethod
    def run(self, asked: SampleSettings) -> object:
        """Do it, write the result, and print where it is.

        Raises:
            BadInput: If the checkpoint or an option cannot be used; nothing was written.
            Stopped: If the program was asked to stop.
        """

    def options(self, asked: SampleSettings) -> dict[str, Any]:
        """All options of the task, those with their defaults too, as plain containers."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        return {field.name: asked.task.get(field.name, getattr(self, field.name)) for field in fields}

    def record(self, asked: SampleSettings) -> dict[str, Any]:
        """The whole configuration, as plain containers, for the protocol of a result."""
        given = asked.model_dump(by_alias=True, exclude_unset=True)
        if asked.decode_memory is None:
            given.pop("decode_memory", None)
        return {**given, "task": asked.task["_target_"], **self.options(asked)}


def check_ranges(least: int = 1, **options: int | None) -> None:
    """Refuse numbers of a task that are too small."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: it must be at least {least}.")


def check_level(level: float | None) -> None:
    """Refuse a level that draws cannot resolve."""
    if level is not None and not LEAST_LEVEL <= level < 1:
        raise ValueError(f"level={level}: it must be from {LEAST_LEVEL} to less than 1.")


def check_seed(seed: int | None) -> None:
    """Refuse a seed that is not from 0 to 2^63 - 1."""
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed}: it must be from 0 to 2^63 - 1.")


def check_finite(guidance: float, name: str = "guidance") -> None:
    """Refuse a scale of guidance that is no finite number."""
    if not math.isfinite(guidance):
        raise ValueError(f"{name}={guidance}: it must be finite.")


class Opened(NamedTuple):
    """A checkpoint with the weights asked for.

    Attributes:
        path: Of its file.
        sha256: Of its file.
        loaded: The model, in evaluation mode on the CPU, and its run's configuration.
        weights: Their name.
        device: Where the task shall work.
    """

    path: Path
    sha256: str
    loaded: Loaded
    weights: str
    device: torch.device

    @property
    def model(self) -> Model:
        """The model."""
        return self.loaded.model

    @property
    def home(self) -> Path:
        """The run's directory."""
        return home_of(self.path)

    def new_path(self, asked: SampleSettings, kind: str, name: str) -> Path:
        """The folder or file to write: `out`, or one of that name in the folder `kind` of the run's directory."""
        out = Path(asked.out) if asked.out else self.home / kind / path_part(name)
        check_new(out)
        return out


class Work:
    """The progress of a task that can be interrupted."""

    def __init__(self, bar: Any, interruption: Interruption) -> None:
        self.bar, self._interruption = bar, interruption

    def check(self, moment: object = None) -> None:
        """Stop if a signal has come."""
        self._interruption.check()

    def done(self, size: int) -> None:
        """Stop if a signal has come, else count `size` units."""
        self.check()
        self.bar.update(size)

    def finish(self) -> None:
        """Count the rest: a sampler may make fewer steps than asked for, where its grid ends before clean data."""
        self.bar.update(self.bar.total - self.bar.n)


def open_checkpoint(asked: SampleSettings, conditions: Mapping[str, Any] = MappingProxyType({})) -> Opened:
    """The one checkpoint that is asked for.

    Args:
        asked: Names it, its weights and its data.
        conditions: Options of the run's conditioner to be others than in training.
    """
    path = checkpoint_file(asked.ckpt)
    assert not isinstance(asked.weights, list)
    loaded, weights = read_weights(path, asked.weights, conditions, asked.data)
    bound_decoding(loaded.model.codec, asked.decode_memory)
    return Opened(path, sha256_of(path), loaded, weights, device_of(asked.accelerator))


def guidance_for(asked: SampleSettings, scale: float, opened: Opened) -> Guidance:
    """The guidance of a scale and the guider that is asked for."""
    guided = Guided(opened.model, opened.loaded.config, opened.path, [opened.weights])
    made = guided.guidance(scale, asked.guider)
    if made.guider.neutral is None and made.scale == 1:
        console(stderr=True).print(
            f"guider={made.guider.name}: guidance=1 is its largest scale, not the conditional model, and samples of "
            "many steps may be noise; give less, such as guidance=0.6."
        )
    return made


def sampler_for(asked: SampleSettings, model: Model, guidance: Guidance) -> Sampler:
    """The sampler that is asked for."""
    sampler: Sampler = construct(asked.sampler, "sampler")
    checks.check_guidance(model, [guidance], f"guidance={guidance.scale:g}")
    checks.check_sampler(sampler, model, [guidance])
    try:
        checks.check_steps(sampler, model, [guidance])
    except BadInput as error:
        assert asked.sampler is not None
        named = overrides.written("sampler", asked.sampler)
        raise BadInput(str(error).replace(type(sampler).__name__, named, 1)) from None
    return sampler


@contextmanager
def working(out: Path, what: str, total: int, unit: str = "img") -> Iterator[tuple[Path, Work]]:
    """A new folder that takes the name `out` when the block ends well, and the progress of the work in it.

    Args:
        out: The folder.
        what: Title of the progress bar.
        total: Units of work.
        unit: What is counted.
    """
    with new_folder(out) as partial, Interruption() as interruption, progress.bar(what, total, unit=unit) as bar:
        yield partial, Work(bar, interruption)
