"""How near restored images are to the true ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from denoiselab.files import sha256_of
from denoiselab.stored import from_uint8

# Side of the window of SSIM, in pixels.
_WINDOW = 11

# The least side of images that LPIPS takes: after three strides of AlexNet nothing is left of smaller ones.
LPIPS_SIDE = 31

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
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim  # slow to import

        found = ssim(x, y, data_range=255.0, reduction="none")
        assert isinstance(found, Tensor)
        out["ssim"] = found.reshape(len(x))
    if lpips is not None:
        a, b = (from_uint8(part).expand(-1, 3, -1, -1) for part in (images, references))
        out["lpips"] = lpips(a, b).double()
    return out


# Names of torchvision's files, by the network as the linear layers name it.
LPIPS_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
_NETS = {"alex": "AlexNet", "vgg": "VGG16"}


def lpips_network(path: Path, net: Literal["alex", "vgg"] = "alex") -> nn.Module:
    """LPIPS by AlexNet or VGG16: maps two batches `(B, 3, H, W)` in [-1, 1] to distances `(B, 1, 1, 1)`.

    The linear layers come with torchmetrics.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv 1801.03924,
    version 0.1.

    Args:
        path: Of torchvision's weights, a file of https://download.pytorch.org/models/.
        net: Whose weights they are.

    Raises:
        ValueError: If the file is missing, or is no such file.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no such file; get https://download.pytorch.org/models/{LPIPS_FILES[net]}, or leave it out."
        )
    from torchmetrics.functional.image.lpips import _LPIPS  # slow to import; the public class downloads its network

    network: nn.Module = _LPIPS(net=net, pnet_rand=True)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        inner: Any = network.net
        own = {name: state[f"features.{name.partition('.')[2]}"] for name in inner.state_dict()}
        inner.load_state_dict(own)
    except (RuntimeError, LookupError, AttributeError, TypeError, EOFError, pickle.UnpicklingError):
        raise ValueError(f"it does not hold torchvision's weights of {_NETS[net]}.") from None
    return network


def read_lpips(path: Path) -> tuple[Distance, str]:
    """LPIPS by AlexNet, without gradients, and the sha256 of its file; see `lpips_network`."""
    network = lpips_network(path)

    @torch.no_grad()
    def distance(x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = network(x, y).flatten()
        return out

    return distance, sha256_of(path)
