"""A model, from which every program, every score and every user of the package draws samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec
from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoise, Denoiser
from denoiselab.errors import BadInput, Failure, whole
from denoiselab.guidance import Guidance, bind
from denoiselab.networks import base
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import OnStep, Sampler, Tally, check_distilled
from denoiselab.schedules import Level
from denoiselab.stored import to_stored

# Guides the denoiser of samples of an index `(B,)` further, as a classifier does; it adds to the tally what it spends.
Steer = Callable[[Denoise, Tensor, Tally], Denoise]

_MOST = 10**8  # samples of a call: their indices take 0.8 GB


class NotFinite(ValueError, Failure):  # noqa: N818
    """Samples, or features of them, that hold NaN or infinity.

    Args:
        index: Of the first such sample.
        what: Says what is not finite of which sampler.
    """

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn, whichever they are.

    Args:
        sampler: The rule.
        seed: Sample i is a function of (seed, i) alone.
        steps: Instead of the sampler's own number.
        guidance: Scale and rule.
        noise: Source of random numbers.
        steer: Further guidance; None for none.
    """

    sampler: Sampler
    seed: int
    steps: int | None = None
    guidance: Guidance = Guidance()
    noise: type[Noise] = Noise
    steer: Steer | None = None


@dataclass(frozen=True)
class Model:
    """A denoiser, the conditioning it takes, and the codec between its input and the data.

    Args:
        denoiser: Of what the codec makes of the data.
        conditioner: Gives samples their conditioning.
        codec: Its `shape` is that of a sample, its `latent_shape` that of the denoiser's input.
        grid: The levels of the only steps that it was distilled for; None for any steps.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    codec: Codec
    grid: Sequence[Level] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input of the denoiser, without the batch."""
        return self.codec.latent_shape

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return base.device_of(self.denoiser)

    @property
    def trained(self) -> Denoiser:
        """What a training trains."""
        return self.denoiser

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the denoiser does not train; exceptions undo it too."""
        return base.evaluating(self.denoiser)

    def sample(
        self,
        sampler: Sampler,
        which: int | Sequence[int] | Tensor,
        seed: int = 0,
        *,
        nfe: int | None = None,
        steps: int | None = None,
        guidance: float | Guidance = 1.0,
        cond: Conditioning | Tensor | Sequence[int] | Sequence[str] | int | str | None = None,
        on_step: OnStep | None = None,
        noise: type[Noise] = Noise,
        batch_size: int = 64,
    ) -> Tensor:
        """Draw samples `(N, *)` as they are stored: uint8 `(N, C, H, W)` of images, float32 of points and waveforms.

        Sample i is a function of (seed, i), whatever the other samples and the batch size are (up to rounding).

        Args:
            sampler: The rule, such as `denoiselab.sampler("dpmpp_2m", steps=20)`.
            which: The number N of samples 0 to N - 1, or the indices `(N,)` of samples.
            seed: Of all noise.
            nfe: Budget of network calls a sample, instead of `steps`.
            steps: Number of steps, instead of the sampler's own.
            guidance: Scale of classifier-free guidance, where 1 is the conditional model; or a scale with another rule.
            cond: The condition of each sample: a row of a `Conditioning`, or the number of a class or a text as the
                conditioner takes it; one number or text for all; None for those that the conditioner gives their
                indices.
            on_step: Called after each step of a batch; what it raises stops the sampling.
            noise: Source of random numbers: `Noise`, or `BrownianNoise`.
            batch_size: Samples a network call.

        Raises:
            ValueError: If both `steps` and `nfe` are given, the budget is too small, a number is out of range, guidance
                is not possible, `cond` is not what the network takes, or `noise` or `on_step` is not what it must be.
            NotFinite: If a sample is not finite.
        """
        _check_kinds(sampler, noise, on_step)
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        if steps is not None and nfe is not None:
            raise ValueError(f"steps={steps} and nfe={nfe}: give one of them.")
        steps, nfe = (None if n is None else whole(name, n, 1) for name, n in (("steps", steps), ("nfe", nfe)))
        seed, batch_size = whole("seed", seed, 0), whole("batch_size", batch_size, 1)
        index = _index(which)
        if isinstance(cond, Integral | str):
            cond = self.conditioner.of([cond] * len(index), self.device)
        elif cond is not None and not isinstance(cond, Conditioning):
            cond = self.conditioner.of(cond, self.device)
        _check_rows(cond, len(index))
        if cond is not None:
            self.conditioner.check(cond)
        steps = steps if nfe is None else sampler.steps_for(nfe, self.denoiser.schedule)
        guidance.check(sampler, self.denoiser.schedule, steps)
        check_distilled(sampler, self.denoiser.schedule, steps, self.grid)
        sampler.check_weights(lambda: digest(self.denoiser))
        drawing = Drawing(sampler, seed, steps, guidance, noise)
        rows = torch.arange(len(index)).split(batch_size)
        with self.evaluating():
            return torch.cat([self.draw(index[part], drawing, on_step, cond=_rows(cond, part))[0] for part in rows])

    @torch.no_grad()
    def draw(
        self,
        index: Tensor,
        drawing: Drawing,
        on_step: OnStep | None = None,
        *,
        start: Tensor | None = None,
        cond: Conditioning | None = None,
    ) -> tuple[Tensor, Tally]:
        """Samples `index` `(B,)` as they are stored, `(B, *codec.shape)`, and what they cost.

        Args:
            index: Of the samples, one batch.
            drawing: How they are drawn.
            on_step: Called after each step; what it raises stops the run.
            start: x_T `(B, *shape)`, instead of theirs.
            cond: Their conditions, instead of those that the conditioner gives them.

        Raises:
            NotFinite: If a sample is not finite.
            ValueError: If there is nothing to guide.
        """
        index, sampler = index.to(self.device), drawing.sampler
        if cond is not None:
            cond = Conditioning(*(None if field is None else field.to(self.device) for field in cond))
        tally = Tally()
        denoise = self.bound(index, drawing.guidance, cond, tally)
        x = sampler(
            tally.counted(denoise if drawing.steer is None else drawing.steer(denoise, index, tally)),
            self.denoiser.schedule,
            self.shape,
            drawing.noise(drawing.seed, index, SAMPLING),
            steps=drawing.steps,
            start=start,
            on_step=on_step,
        )
        what = f"{type(sampler).__name__} at {tally.calls} NFE is not finite"
        check_finite(x, index, what)
        decoded = self.codec.decode(x)
        check_finite(decoded, index, f"{what} once {type(self.codec).__name__} has decoded it")
        return to_stored(decoded), tally

    def bound(
        self,
        index: Tensor,
        guidance: Guidance = Guidance(),
        cond: Conditioning | None = None,
        tally: Tally | None = None,
    ) -> Denoise:
        """The denoiser of samples `index` `(B,)`, with their conditions bound and guided, for one run.

        Args:
            index: Of the samples, on the denoiser's device.
            guidance: Scale and rule.
            cond: The samples' conditions, instead of those that the conditioner gives them.
            tally: Counts the evaluations; None for a tally that nobody reads.

        Raises:
            ValueError: If there is nothing to guide.
        """
        cond = self.conditioner.sample(index) if cond is None else cond
        null = self.conditioner.null(index).filled(cond)
        return bind(self.denoiser, cond, null, guidance, tally, self.conditioner.guided_channels)


def device_of(device: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If there is no such device on this machine.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError):
        raise BadInput(f"device={str(device)!r}: this machine has no such device; allowed: 'cpu' and GPUs.") from None
    return found


def check_finite(x: Tensor, index: Tensor, what: str) -> None:
    """Refuse samples `x` `(B, *)` with indices `index` `(B,)`, which are `what`, the sentence after "sample 3 of ".

    Raises:
        NotFinite: One is not finite.
    """
    bad = ~x.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        first = int(index[bad][0])
        raise NotFinite(first, f"sample {first} of {what}.")


def digest(module: nn.Module) -> str:
    """sha256 of names and values of all weights."""
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _check_kinds(sampler: object, noise: object, on_step: object) -> None:
    """Refuse arguments of `Model.sample` that are of another kind."""
    if not isinstance(sampler, Sampler):
        raise ValueError(f"sampler={sampler!r}: it must be a Sampler, such as denoiselab.sampler('dpmpp_2m').")
    if not (isinstance(noise, type) and issubclass(noise, Noise)):
        raise ValueError(f"noise={noise!r}: it must be a class: denoiselab.Noise or denoiselab.BrownianNoise.")
    if on_step is not None and not callable(on_step):
        raise ValueError(f"on_step={on_step!r}: it must be a function of a Moment.")


def _index(which: int | Sequence[int] | Tensor) -> Tensor:
    """Indices `(N,)` of samples: those below a number, or as they are given."""
    refusal = ValueError(f"which={which!r}: give a number of samples of at least 1, or indices of at least 0.")
    try:
        index = torch.as_tensor(which)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise refusal from None
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise refusal
    if index.ndim == 0:
        if int(index) > _MOST:
            raise ValueError(f"which={which!r}: at most {_MOST:,} samples are drawn at once.")
        index = torch.arange(max(int(index), 0))
    if index.ndim != 1 or not len(index) or bool((index < 0).any()):
        raise refusal
    return index


def _check_rows(cond: Conditioning | None, count: int) -> None:
    """Refuse conditions of another type or number of samples."""
    if cond is not None and not isinstance(cond, Conditioning):
        raise ValueError(f"cond={cond!r}: it must be a denoiselab.Conditioning, such as Conditioning(class_label=...).")
    for name, field in (cond or Conditioning())._asdict().items():
        if field is not None and len(field) != count:
            raise ValueError(f"cond.{name}: has {len(field)} rows, and there are {count} samples; give a row a sample.")


def _rows(cond: Conditioning | None, part: Tensor) -> Conditioning | None:
    """The conditions of some samples."""
    return None if cond is None else Conditioning(*(None if field is None else field[part] for field in cond))
