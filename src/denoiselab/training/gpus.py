"""What GPUs can do at most, by their makers' tables."""

from __future__ import annotations

import re
from typing import NamedTuple

from denoiselab.errors import BadInput, closest


class Gpu(NamedTuple):
    """A GPU.

    Attributes:
        title: Its name.
        peak: Operations a second in bfloat16 or float16 with float32 sums, dense: half of what tables give "with
            sparsity".
        memory: Bytes.
    """

    title: str
    peak: float
    memory: float


# NVIDIA's data sheets of A100, H100 and H200; H100 NVL and PCIe: halves of the figures with sparsity. B200 and GB200:
# NVIDIA's Blackwell brief, as others quote it.
GPUS = {
    "a100": Gpu("A100 80GB", 312e12, 80e9),
    "h100": Gpu("H100 SXM", 989e12, 80e9),
    "h100_nvl": Gpu("H100 NVL", 835e12, 94e9),
    "h100_pcie": Gpu("H100 PCIe", 756e12, 80e9),
    "h200": Gpu("H200 SXM", 989e12, 141e9),
    "b200": Gpu("B200", 2250e12, 180e9),
    "gb200": Gpu("GB200", 2500e12, 186e9),
}

# Of `torch.cuda.get_device_name`; the first that is found counts. An H200 NVL is none of the table.
_NAMES = (
    (r"\bA100\b", "a100"),
    (r"\bH100 NVL\b", "h100_nvl"),
    (r"\bH100 PCIe\b", "h100_pcie"),
    (r"\bH100\b.*\bHBM3\b", "h100"),
    (r"\bH200\b(?! NVL)", "h200"),
    (r"\bGB200\b", "gb200"),
    (r"\bB200\b", "b200"),
)


def known(device_name: str) -> Gpu | None:
    """The GPU of a device's name; None for one that is not in the table."""
    return next((GPUS[key] for pattern, key in _NAMES if re.search(pattern, device_name)), None)


def named(key: str) -> Gpu:
    """The GPU that `gpu=...` names.

    Raises:
        BadInput: If there is none.
    """
    if key not in GPUS:
        raise BadInput(f"gpu={key}: unknown; {closest(key, GPUS)}allowed: {', '.join(GPUS)}.")
    return GPUS[key]
