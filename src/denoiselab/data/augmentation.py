"""Random changes of training batches, on the network's device: functions of (seed, position) alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.noise import Noise

# Low-pass filter of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets, 1992, table 6.3).
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)


class Augmentation(ABC):
    """A random change of a batch; `features` numbers per image describe it to the network, 0 for none.

    Images of `except_classes` stay as they are.
    """

    features: int = 0
    except_classes: Sequence[int] = ()

    @abstractmethod
    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """The changed batch, and a description of the change.

        Args:
            x: `(B, *)` in the network's range; of images `(B, C, H, W)`.
            noise: Of the batch's positions.

        Returns:
            A batch like `x`, and the description `(B, features)`, zeros for an unchanged image; None if features = 0.
        """


class HorizontalFlip(Augmentation):
    """Mirrors images left to right with probability 1/2; samples are mirrored at times, too.

    Args:
        except_classes: Numbers of classes whose images are not mirrored, such as letters or flags.
    """

    def __init__(self, except_classes: Sequence[int] = ()) -> None:
        self.except_classes = except_classes

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, None]:
        return torch.where(_rows(noise.uniform() < 0.5, x), x.flip(-1), x), None


class Shift(Augmentation):
    """Shifts images uniformly by up to `pixels` in each direction: a random crop of the image padded by reflection.

    Args:
        pixels: At least 1, and less than the sides.

    Raises:
        ValueError: If pixels < 1.
    """

    def __init__(self, pixels: int) -> None:
        if pixels < 1:
            raise ValueError(f"pixels={pixels}: it must be at least 1.")
        self.pixels = pixels

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, None]:
        height, width = x.shape[2:]
        if self.pixels >= min(height, width):
            raise ValueError(f"pixels={self.pixels}: it must be less than the sides, {height} and {width}.")
        padded = F.pad(x, (self.pixels,) * 4, mode="reflect")
        corner = (noise.uniform((2,)) * (2 * self.pixels + 1)).long()  # (B, 2)
        rows = corner[:, :1] + torch.arange(height, device=x.device)  # (B, H)
        columns = corner[:, 1:] + torch.arange(width, device=x.device)
        batch = torch.arange(len(x), device=x.device)[:, None, None]
        out = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]]  # (B, H, W, C)
        return out.permute(0, 3, 1, 2), None


class Dequantise(Augmentation):
    """Uniform noise within each byte's bin: x + u / 127.5, u ~ U(-1/2, 1/2).

    Source: Theis et al., A note on the evaluation of generative models, arXiv 1511.01844, section 3.1.
    """

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, None]:
        return x + ((noise.uniform(x.shape[1:]) - 0.5) / 127.5).to(x), None


class Chain(Augmentation):
    """Several augmentations in turn; their descriptions are concatenated.

    Args:
        steps: The augmentations.

    Raises:
        ValueError: If one has exceptions.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        if any(step.except_classes for step in steps):
            raise ValueError("steps: except_classes is for an augmentation alone, not for one of several.")
        self.steps = steps
        self.features = sum(step.features for step in steps)

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None]:
        features = []
        for step in self.steps:
            x, described = step(x, noise)
            features += [] if described is None else [described]
        return x, torch.cat(features, dim=1) if features else None


class NonLeaky(Augmentation):
    """Flips, scalings, rotations, stretchings and shifts, given to the network as conditions so that it learns none.

    Nine numbers per image: x flip, y flip; log2 scale; cos - 1 and sin of the rotation; log2 stretch times cos and sin
    of its direction; shift in x and y. Scale, stretch and shift are in units of their standard deviations. Beyond its
    edges an image is continued by reflection. Images are resampled at twice their resolution, between the low-pass
    filters of a wavelet.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364,
    appendix F.2 and table 6; the filters from Karras et al., arXiv 2006.06676, appendix B.

    Args:
        p: Probability of each change except the x flip: .12 for CIFAR-10, .15 for FFHQ and AFHQ.
        x_flip: Mirror with probability 1/2, at any `p`.
        turned: Flip vertically and rotate too, which EDM does; MeanFlow's CIFAR-10 (arXiv 2505.13447) does not.
        scale: Standard deviation of log2 of the scale.
        stretch: Standard deviation of log2 of the stretch, half of them in a random direction.
        shift: Standard deviation of a shift, in sides of the image.

    Raises:
        ValueError: If p is outside [0, 1] or a deviation is negative.
    """

    features = 9

    def __init__(
        self,
        p: float = 0.12,
        x_flip: bool = True,
        scale: float = 0.2,
        stretch: float = 0.2,
        shift: float = 0.125,
        turned: bool = True,
    ) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: it must be from 0 to 1.")
        for name, value in (("scale", scale), ("stretch", stretch), ("shift", shift)):
            if value < 0:
                raise ValueError(f"{name}={value}: it must be at least 0.")
        self.p, self.x_flip, self.turned = p, x_flip, turned
        self.scale, self.stretch, self.shift = scale, stretch, shift

    def __call__(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        chance, angle = noise.uniform((7,)), math.pi * (2 * noise.uniform((2,)) - 1)
        coin, normal = noise.uniform((2,)) < 0.5, noise.normal((4,)).double()
        on = chance[:, :6] < self.p
        on[:, [1, 3]] &= self.turned
        x_flip = coin[:, 0] & (on[:, 0] | self.x_flip)
        y_flip = coin[:, 1] & on[:, 1]
        scale, stretch = normal[:, 0] * on[:, 2], normal[:, 1] * on[:, 4]
        turn, direction = angle[:, 0] * on[:, 3], angle[:, 1] * (chance[:, 6] < 0.5)
        shift = normal[:, 2:] * on[:, 5:]
        features = (
            *(x_flip, y_flip, scale, turn.cos() - 1, turn.sin()),
            *(stretch * direction.cos(), stretch * direction.sin(), *shift.unbind(1)),
        )
        x = torch.where(_rows(x_flip, x), x.flip(3), x)
        x = torch.where(_rows(y_flip, x), x.flip(2), x)
        height, width = x.shape[2:]
        factor = torch.exp2(-self.stretch * stretch)
        back = (
            _diagonal(torch.exp2(-self.scale * scale), torch.exp2(-self.scale * scale))
            @ _rotation(turn)
            @ _rotation(-direction)
            @ _diagonal(factor, 1 / factor)
            @ _rotation(direction)
            @ _translation(-shift[:, 0] * self.shift * width, -shift[:, 1] * self.shift * height)
        )
        moved = on[:, 2:].any(1).nonzero()[:, 0]
        if len(moved):
            x = x.index_copy(0, moved, resample(x[moved], back[moved]))
        return x, torch.stack([feature.to(x) for feature in features], dim=1)


def resample(x: Tensor, back: Tensor) -> Tensor:
    """Images under affine maps: the value at point p is that of `x`, continued by one reflection, at `back` p.

    Args:
        x: `(B, C, H, W)`.
        back: `(B, 3, 3)` float64, in pixels from the centre, x to the right and y down.

    Returns:
        Like `x`.
    """
    (channels, height, width), edge = x.shape[1:], len(SYM6) // 4
    taps = torch.tensor(SYM6, dtype=x.dtype, device=x.device)
    filters = [taps.view(shape).expand(channels, 1, *shape) for shape in ((1, -1), (-1, 1))]
    strides, pads = ((1, 2), (2, 1)), ((0, len(SYM6) // 2 - 1), (len(SYM6) // 2 - 1, 0))
    # As far as one reflection goes, whatever the maps of the batch need, so that no image depends on the others.
    fine = F.pad(x, (width - 1, width - 1, height - 1, height - 1), mode="reflect")
    for weight, stride, pad in zip(filters, strides, pads, strict=True):
        fine = F.conv_transpose2d(fine, weight, stride=stride, padding=pad, groups=channels)
    # The centre of a pixel is half a fine pixel away from that of the fine one, in input and output.
    half, two = (torch.full((len(x),), value, dtype=back.dtype, device=x.device) for value in (0.5, 2.0))
    back = (
        _translation(-half, -half) @ _diagonal(two, two) @ back @ _diagonal(1 / two, 1 / two) @ _translation(half, half)
    )
    size = [len(x), channels, 2 * (height + 2 * edge), 2 * (width + 2 * edge)]
    to_unit = torch.tensor([2 / fine.shape[3], 2 / fine.shape[2]], dtype=back.dtype, device=x.device)[:, None]
    from_unit = torch.tensor([size[3] / 2, size[2] / 2, 1], dtype=back.dtype, device=x.device)
    grid = F.affine_grid((to_unit * back[:, :2] * from_unit).to(x.dtype), size, align_corners=False)
    fine = F.grid_sample(fine, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    for weight, stride, pad in zip(filters, strides, pads, strict=True):
        fine = F.conv2d(fine, weight, stride=stride, padding=pad, groups=channels)
    return fine[:, :, edge:-edge, edge:-edge]


def _rows(flag: Tensor, x: Tensor) -> Tensor:
    return flag.view(-1, *[1] * (x.ndim - 1))


def _matrix(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.stack([torch.stack([*row], dim=1) for row in rows], dim=1)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(((x, zero, zero), (zero, y, zero), (zero, zero, one)))


def _rotation(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _matrix(((cos, -sin, zero), (sin, cos, zero), (zero, zero, one)))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(((one, zero, x), (zero, one, y), (zero, zero, one)))
