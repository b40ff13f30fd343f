"""State dicts that are made up in a published layout."""

import math

import torch


class Weights(dict):
    """A state dict that makes up what it does not hold.

    So one pass of a published network over an empty one makes the layout: its names and shapes.
    """

    def __init__(self, state=(), seed=0):
        super().__init__(state)
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name, *shape):
        if name not in self:
            spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
            self[name] = spread * torch.randn(shape, generator=self.generator)
        assert self[name].shape == shape, name
        return self[name]


class Shapes(Weights):
    """The layout alone, for passes on the meta device."""

    def __init__(self):
        super().__init__()
        self.shapes = {}

    def get(self, name, *shape):
        self.shapes[name] = torch.Size(shape)
        return torch.empty(shape, device="meta")
