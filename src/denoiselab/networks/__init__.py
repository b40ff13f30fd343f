"""Networks: called as `network(x, label, cond)`; they know no schedule and no configuration."""

from denoiselab.networks.adm import ADMClassifier, ADMUNet
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.ddpm import DDPMUNet
from denoiselab.networks.edm2 import EDM2UNet
from denoiselab.networks.mlp import MLP
from denoiselab.networks.ncsn import NCSN, NCSNv2
from denoiselab.networks.ncsnpp import NCSNpp

__all__ = ["MLP", "NCSN", "ADMClassifier", "ADMUNet", "Conditioning", "DDPMUNet", "EDM2UNet", "NCSNpp", "NCSNv2"]
