"""Draw the samples of a batch and count their network calls: what every score and every picture starts from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from denoiselab.codecs import Codec
from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoise, Denoiser
from denoiselab.guidance import bind
from denoiselab.media.kinds import medium
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import OnStep, Sampler, count_calls


class NotFinite(ValueError):  # noqa: N818
    """Samples, or features of them, that hold NaN or infinity.

    Args:
        index: Of the first such sample.
        what: Says what is not finite of which sampler.
    """

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


def draw(
    sampler: Sampler,
    denoiser: Denoiser,
    conditioner: Conditioner,
    codec: Codec,
    index: Tensor,
    seed: int,
    steps: int,
    on_step: OnStep,
    guidance: float = 1.0,
    noise: type[Noise] = Noise,
    steer: Callable[[Denoise, Tensor], Denoise] | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, count_calls]:
    """Samples `index` `(B,)` of `seed` as they are stored, `(B, *codec.shape)`, and the count of their network calls.

    `steer` guides the denoiser of samples `index` further, as a classifier does.

    `start` `(B, *shape)` is x_T, instead of theirs.

    Raises:
        NotFinite: A sample is not finite.
        ValueError: There is nothing to guide.
    """
    bound = bind(denoiser, conditioner.sample(index), conditioner.null(index), guidance, conditioner.guided_channels)
    counted = count_calls(bound if steer is None else steer(bound, index))
    drawn = noise(seed, index, SAMPLING)
    x = sampler(counted, denoiser.schedule, codec.latent_shape, drawn, steps=steps, start=start, on_step=on_step)
    what = f"{type(sampler).__name__} at {counted.calls} NFE is not finite"
    check_finite(x, index, what)
    decoded = codec.decode(x)
    check_finite(decoded, index, f"{what} once {type(codec).__name__} has decoded it")
    return medium(codec.shape).to_stored(decoded), counted


def check_finite(x: Tensor, index: Tensor, what: str) -> None:
    """Refuse samples `x` `(B, *)` with indices `index` `(B,)`, which are `what`, the sentence after "sample 3 of ".

    Raises:
        NotFinite: One is not finite.
    """
    bad = ~x.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        first = int(index[bad][0])
        raise NotFinite(first, f"sample {first} of {what}.")


def mean_count(total: int, samples: int) -> float:
    """A whole number where it is one."""
    mean = total / samples
    return int(mean) if mean.is_integer() else round(mean, 2)
