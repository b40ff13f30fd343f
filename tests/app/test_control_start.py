"""A controlled network starts from the run of the network that it freezes."""

import torch
from torch import nn

from denoiselab.app.building.starting import _with_control
from denoiselab.networks import ControlledTextUNet, TextUNet

OPTIONS = {"channels": 8, "groups": 4, "multipliers": [1], "attention_levels": [0], "heads": 2, "token_features": 6}


class Holder(nn.Module):
    """In place of a denoiser."""

    def __init__(self, network):
        super().__init__()
        self.network = network


def test_the_copy_gets_the_weights_of_the_encoder():
    base, own = Holder(TextUNet([1, 8, 8], **OPTIONS)), Holder(ControlledTextUNet([1, 8, 8], **OPTIONS))
    state = _with_control(own, base.state_dict())
    assert state.keys() == own.state_dict().keys()
    for name, value in base.state_dict().items():
        assert torch.equal(state[name], value)
        copied = name.replace("network.", "network.control.", 1)
        assert copied not in state or torch.equal(state[copied], value)
    assert torch.equal(state["network.control.stem.weight"], base.network.stem.weight)
    assert not state["network.joins.0.weight"].any()
    assert _with_control(own, state) is state  # a run of the controlled network goes on as it is
    assert _with_control(base, state) is state
