"""Model folders of diffusers: pipelines, networks, autoencoders and schedulers are read; UNets' pipelines are written."""
