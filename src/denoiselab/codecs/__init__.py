"""Codecs between samples and the latents that a network is trained on.

`encode_pixels` computes what can be stored on disk, `encode_latents` draws and scales latents from it, and `decode`
maps latents to samples.
"""

from denoiselab.codecs.adversaries import Adversary, PatchDiscriminator
from denoiselab.codecs.autoencoder_dc import AutoencoderDC
from denoiselab.codecs.autoencoder_kl import AutoencoderKL
from denoiselab.codecs.autoencoder_tiny import AutoencoderTiny
from denoiselab.codecs.base import Autoencoder, Bijection, Codec, Identity
from denoiselab.codecs.first_stage import FirstStageNetwork
from denoiselab.codecs.logit import Logit
from denoiselab.codecs.normalisation import normalisation
from denoiselab.codecs.reconstruction import Perceptual, ReconstructionLoss
from denoiselab.codecs.regularisers import CodebookPenalty, KLPenalty, Regulariser
from denoiselab.codecs.vq import VQModel

__all__ = [
    "Adversary",
    "Autoencoder",
    "AutoencoderDC",
    "AutoencoderKL",
    "AutoencoderTiny",
    "Bijection",
    "CodebookPenalty",
    "Codec",
    "FirstStageNetwork",
    "Identity",
    "KLPenalty",
    "Logit",
    "PatchDiscriminator",
    "Perceptual",
    "ReconstructionLoss",
    "Regulariser",
    "VQModel",
    "normalisation",
]
