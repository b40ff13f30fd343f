"""How near restored images are to the true ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.files import sha256_of
from denoiselab.stored import from_uint8

# Side of the window of SSIM, in pixels.
_WINDOW = 11

# A distance of images `(B, 3, H, W)` in [-1, 1], `(B,)`.
Distance = Callable[[Tensor, Tensor], Tensor]


def fidelity(images: Tensor, references: Tensor, lpips: Distance | None = None) -> dict[str, Tensor]:
    """`psnr` in dB, `ssim` and `lpips` of each image, `(B,)` float64.

    PSNR has a peak of 255, and is infinite for equal images. SSIM (Wang et al., IEEE Transactions on Image Processing
    13, 2004) has Gaussian windows of 11 pixels inside the images, and is left out where a side is shorter; so is LPIPS
    without its network.

    Args:
        images: `(B, C, H, W)` uint8, C = 1 or 3.
        references: The true images, likewise.
        lpips: As of `read_lpips`.
    """
    x, y = images.double(), references.double()
    out = {"psnr": 10 * (255**2 / (x - y).square().flatten(1).mean(1)).log10()}
    if min(x.shape[-2:]) >= _WINDOW:
        out["ssim"] = _ssim(x, y)
    if lpips is not None:
        a, b = (from_uint8(part).expand(-1, 3, -1, -1) for part in (images, references))
        out["lpips"] = lpips(a, b).double()
    return out


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Of images in [0, 255], `(B,)`; the package that has it takes seconds to import."""
    line = torch.exp(-(torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2).square() / (2 * 1.5**2))
    window = torch.outer(line, line).expand(x.shape[1], 1, -1, -1) / line.sum() ** 2
    mean_x, mean_y, xx, yy, xy = (F.conv2d(z, window, groups=x.shape[1]) for z in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    products = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    squares = mean_x.square() + mean_y.square()
    return (products / ((squares + c1) * (xx + yy - squares + c2))).flatten(1).mean(1)


@torch.no_grad()
def read_lpips(path: Path) -> tuple[Distance, str]:
    """LPIPS by AlexNet, and the sha256 of its file; the linear layers come with torchmetrics.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924,
    version 0.1.

    Args:
        path: Of torchvision's weights, https://download.pytorch.org/models/alexnet-owt-7be5be79.pth.

    Raises:
        ValueError: If the file is missing, or is no such file.
    """
    if not path.is_file():
        raise ValueError(
            "there is no such file; get https://download.pytorch.org/models/alexnet-owt-7be5be79.pth, or leave it out."
        )
    from torchmetrics.functional.image.lpips import _LPIPS  # slow to import; the public class downloads its network

    network = _LPIPS(net="alex", pnet_rand=True)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = {name: state[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()}
        network.net.load_state_dict(own)
    except (RuntimeError, LookupError, AttributeError, TypeError, EOFError, pickle.UnpicklingError):
        raise ValueError("it does not hold torchvision's weights of AlexNet.") from None

    def distance(x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = network(x, y).flatten()
        return out

    return distance, sha256_of(path)
