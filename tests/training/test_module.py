import torch

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.model import Model
from denoiselab.networks.magnitude import MPConv
from denoiselab.parameterizations import edm
from denoiselab.schedules import EDM
from denoiselab.training.ema import EMA, Constant
from denoiselab.training.module import DiffusionModule


def test_weights_are_brought_back_before_the_averages_see_them():
    torch.manual_seed(0)
    network = torch.nn.Sequential(MPConv(8, 4), torch.nn.Linear(4, 4))
    denoiser = Denoiser(network, EDM(), edm, LogNoise())
    ema = EMA({"now": Constant(0.0)})
    model = Model(denoiser, Unconditional(), Identity((8,)))
    module = DiffusionModule(model, torch.nn.Identity(), torch.optim.SGD, lambda seen: 1.0, ema, 0, {})
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=1.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]

    def closure():
        optimizer.zero_grad()
        loss = (network[0].weight * torch.randn(4, 8)).sum() + network[1].weight.sum()
        loss.backward()
        return loss

    free = network[1].weight.detach() - 1
    module.on_fit_start()
    module.images_seen = 16
    module.optimizer_step(0, 0, optimizer, closure)
    lengths = network[0].weight.square().mean(1).sqrt()
    assert torch.allclose(lengths, torch.ones(4), atol=1e-3)
    assert torch.allclose(network[1].weight, free)  # others are left where the step put them
    assert torch.equal(ema.averages["now"]["network.0.weight"], network[0].weight)
