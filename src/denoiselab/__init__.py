"""denoiselab: train diffusion models; learn which sampler, at how many network calls, gives which score."""

__version__ = "0.1.0"
