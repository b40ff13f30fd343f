"""Model folders of diffusers: pipelines, networks, autoencoders and schedulers, read; pipelines of UNets, written."""
