"""A mask and a masked image as conditioning: inpainting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.codecs import Codec, Identity
from denoiselab.conditioners.base import Clean, Conditioner, HeldOut
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise

# Masks of generated samples have indices beyond those of samples.
_FIRST_INDEX = 2**42

_BOXES = 4  # the most in a mask

_SIDES = (0.125, 0.5)  # of a box, in units of the image's


class Inpainting(Conditioner):
    """The image without what is to be filled, and the mask of that, as `image` `(B, 1 + Z, h, w)`.

    With a codec the masked image is encoded, without a draw from the posterior, and the mask is resized to the latents
    by nearest neighbours. In training a mask is 1 to 4 boxes of random places and sizes, or all of the image. Samples
    fill held-out images, in turn. There is no null condition.

    Sources: Rombach et al., arXiv 2112.10752, section 4.5 (a mask and a masked image beside the latents); the order and
    values that options give are those of Stable Diffusion's inpainting, and of LDM's `inpainting_big`
    (`mask_first=false`, `hidden=-1`, `known=-1`). The boxes are simpler than LaMa's masks, which LDM takes.

    Args:
        shape: Shape (C, H, W) of an image.
        mask_first: The mask comes before the masked image.
        hidden: Value of masked pixels, in the range -1 to 1.
        known: Value of the mask where the image is known; it is 1 where it is not.
        whole: Probability in training that all of the image is masked.
        hole: Top, left, bottom and right of what is masked in generated samples, from 0 to 1; None for random boxes.

    Raises:
        ValueError: If `shape` is not an image's, or a value is out of range.
    """

    names = frozenset({"image"})
    network_options: Mapping[str, str] = {"image_channels": "images"}

    def __init__(
        self,
        shape: Sequence[int],
        mask_first: bool = True,
        hidden: float = 0.0,
        known: float = 0.0,
        whole: float = 0.25,
        hole: Sequence[float] | None = None,
    ) -> None:
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: it must be an image's, (C, H, W).")
        if not -1 <= hidden <= 1:
            raise ValueError(f"hidden={hidden}: it must be from -1 to 1.")
        if known not in (0.0, -1.0):
            raise ValueError(f"known={known}: it must be 0 or -1.")
        if not 0 <= whole <= 1:
            raise ValueError(f"whole={whole}: it must be from 0 to 1.")
        sides = [0.0, 0.0, 1.0, 1.0] if hole is None else list(hole)
        if len(sides) != 4 or not (0 <= sides[0] < sides[2] <= 1 and 0 <= sides[1] < sides[3] <= 1):
            raise ValueError(f"hole={sides}: it must be top, left, bottom and right, each from 0 to 1, in this order.")
        self.shape, self.mask_first, self.hidden, self.known = tuple(shape), mask_first, hidden, known
        self.whole, self.hole = whole, None if hole is None else sides
        self.codec: Codec = Identity(shape)
        self._held_out: HeldOut | None = None

    @property
    def channels(self) -> int:
        """Of `image`."""
        return 1 + self.codec.latent_shape[0]

    def of_images(self, images: Tensor, masked: Tensor) -> Conditioning:
        """The conditions `(B, ...)` of images `(B, C, H, W)` in [-1, 1].

        Args:
            images: What is masked in them has no effect.
            masked: `(B, 1, H, W)` bool, True where they are to be filled.

        Raises:
            ValueError: If images or masks have other shapes.
        """
        if images.shape[1:] != self.shape or masked.shape != (len(images), 1, *self.shape[1:]):
            raise ValueError(
                f"images: they must be (B, {', '.join(map(str, self.shape))}) and masks of one channel as large; found "
                f"{tuple(images.shape)} and {tuple(masked.shape)}."
            )
        latents = self._encoded(torch.where(masked, self.hidden, images))
        mask = torch.where(F.interpolate(masked.to(latents), latents.shape[2:], mode="nearest") > 0.5, 1.0, self.known)
        return Conditioning(image=torch.cat((mask, latents) if self.mask_first else (latents, mask), dim=1))

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        everything = (noise.uniform() < self.whole)[:, None, None, None]
        return self.of_images(clean.images, self._boxes(noise) | everything)

    def given(self, clean: Clean) -> Conditioning:
        if self.hole is None:
            index = torch.arange(len(clean.images), device=clean.images.device)
            return self.of_images(clean.images, self._boxes(Noise(0, _FIRST_INDEX + index, SAMPLING)))
        return self.of_images(clean.images, self._hole(len(clean.images), clean.images.device))

    def sample(self, index: Tensor) -> Conditioning:
        if self._held_out is None:
            raise ValueError("conditioner=inpainting: samples fill held-out images; there are none.")
        images = self._held_out(index).images
        if self.hole is not None:
            return self.of_images(images, self._hole(len(index), index.device))
        return self.of_images(images, self._boxes(Noise(0, _FIRST_INDEX + index, SAMPLING)))

    def set_held_out(self, held_out: HeldOut) -> None:
        self._held_out = held_out

    def set_codec(self, codec: Codec) -> None:
        self.codec = codec

    def _encoded(self, images: Tensor) -> Tensor:
        """The latents of images, without a draw; of images on the meta device, where no codec is, their shape."""
        if images.is_meta:
            return images.new_empty(len(images), *self.codec.latent_shape)
        kept = self.codec.encode_pixels(images)
        return self.codec.encode_latents(kept, lambda shape: kept.new_zeros(len(kept), *shape))

    def _hole(self, count: int, device: torch.device) -> Tensor:
        assert self.hole is not None
        sides = torch.tensor(self.hole, device=device).expand(count, 1, 4)
        return _boxes(sides, self.shape[1:])

    def _boxes(self, noise: Noise) -> Tensor:
        """Random boxes `(B, 1, H, W)` bool."""
        u = noise.uniform((5 * _BOXES,)).unflatten(1, (_BOXES, 5))
        least, most = _SIDES
        height, width = ((least + (most - least) * u[..., n]) for n in (0, 1))
        top, left = u[..., 2] * (1 - height), u[..., 3] * (1 - width)
        used = (u[:, 0, 4] * _BOXES).floor()  # so many more than one
        unused = torch.arange(_BOXES, device=u.device) > used[:, None]
        sides = torch.stack((top, left, top + height, left + width), dim=2)
        return _boxes(torch.where(unused[..., None], sides[:, :1], sides), self.shape[1:])


def _boxes(sides: Tensor, size: Sequence[int]) -> Tensor:
    """The pixels `(B, 1, H, W)` bool whose centres are in boxes `(B, N, 4)`: top, left, bottom, right, from 0 to 1."""
    y, x = ((torch.arange(n, device=sides.device) + 0.5) / n for n in size)
    top, left, bottom, right = sides[..., None].unbind(2)  # (B, N, 1) each
    rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)
