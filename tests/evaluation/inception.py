"""Inception-v3 with random weights, in a file as torch-fidelity loads it."""

from unittest import mock

import torch
from torch_fidelity import feature_extractor_inceptionv3 as peer


def write_random_inception(path):
    """Weights that keep the size of activations from layer to layer; without biases it grows with contrast."""
    with (
        mock.patch.object(peer, "load_state_dict_from_url", return_value={}),
        mock.patch.object(peer.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        network = peer.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, 0.05, generator=generator)
                module.bias.normal_(generator=generator)
        for module in network.Mixed_7c.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(2.5)  # the last features are as large as with the published weights
    torch.save(network.state_dict(), path)
    return path
