"""Checkpoints of CompVis' latent-diffusion and Stable Diffusion."""
