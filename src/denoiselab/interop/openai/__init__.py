"""Checkpoints of improved-diffusion and guided-diffusion, in and out."""
