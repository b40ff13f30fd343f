"""Networks in which every weight counts, and files of them."""

import torch


@torch.no_grad()
def randomised(module, seed=0):
    """The module with all parameters drawn anew, zero-initialised ones too, at a scale that keeps outputs near 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
        if parameter.ndim == 1:
            parameter += 1
    return module.eval()


def batch(shape, size=3, seed=1):
    """A noisy batch and its time labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=generator), torch.tensor([0.0, 17.0, 999.0])[:size]


def off(ours, theirs):
    """The largest difference, relative to the standard deviation of theirs."""
    return float((ours - theirs).abs().max() / theirs.std())
