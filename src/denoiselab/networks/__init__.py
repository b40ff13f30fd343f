"""Networks, called as `network(x, label, cond)`; they depend on no schedule and no configuration."""

from denoiselab.networks.adm import ADMClassifier, ADMUNet
from denoiselab.networks.base import ClassifierNetwork, Network
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.control import ControlledTextUNet
from denoiselab.networks.ddpm import DDPMUNet
from denoiselab.networks.dit import DiT
from denoiselab.networks.edm2 import EDM2UNet
from denoiselab.networks.layers import Dropout
from denoiselab.networks.mlp import MLP
from denoiselab.networks.ncsn import NCSN, NCSNv2
from denoiselab.networks.ncsnpp import NCSNpp
from denoiselab.networks.pixels import JiT
from denoiselab.networks.unet_1d import UNet1D
from denoiselab.networks.unet_text import TextUNet
from denoiselab.networks.uvit import UViT

__all__ = [
    "MLP",
    "NCSN",
    "ADMClassifier",
    "ADMUNet",
    "ClassifierNetwork",
    "Conditioning",
    "ControlledTextUNet",
    "DDPMUNet",
    "DiT",
    "Dropout",
    "EDM2UNet",
    "JiT",
    "NCSNpp",
    "NCSNv2",
    "Network",
    "TextUNet",
    "UNet1D",
    "UViT",
]
