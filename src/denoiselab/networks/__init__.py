"""Networks: called as `network(x, label, **cond)`; they know no schedule and no configuration."""

from denoiselab.networks.ddpm import DDPMUNet

__all__ = ["DDPMUNet"]
