"""Model folders of diffusers: pipelines, networks, autoencoders and schedulers are read, pipelines of UNets written."""
