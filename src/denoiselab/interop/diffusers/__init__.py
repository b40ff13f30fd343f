"""Model folders of diffusers: pipelines, networks, autoencoders and schedulers, read and written."""
