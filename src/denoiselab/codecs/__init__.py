"""Codecs: what stands between pixels and what a network is trained on.

Three verbs: `encode_pixels` does what is worth keeping on disk, `encode_latents` draws and scales latents from it, and
`decode` makes pixels of latents.
"""

from denoiselab.codecs.autoencoder_kl import AutoencoderKL
from denoiselab.codecs.base import Autoencoder, Bijection, Codec, Identity
from denoiselab.codecs.logit import Logit
from denoiselab.codecs.vq import VQModel

__all__ = ["Autoencoder", "AutoencoderKL", "Bijection", "Codec", "Identity", "Logit", "VQModel"]
