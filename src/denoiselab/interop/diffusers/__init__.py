"""Model folders of diffusers, in and out."""
