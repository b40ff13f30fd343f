"""Networks of pixels in large patches."""

from denoiselab.networks.pixels.jit import JiT

__all__ = ["JiT"]
