import torch

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.model import Model
from denoiselab.networks.magnitude import MPConv
from denoiselab.objectives.level_distributions import LossHistory
from denoiselab.parameterizations import edm
from denoiselab.schedules import EDM, DiscreteVP, betas
from denoiselab.training.ema import EMA, Constant
from denoiselab.training.module import DiffusionModule


def made(network, objective):
    """A module that trains a network, and its optimizer."""
    model = Model(Denoiser(network, EDM(), edm, LogNoise()), Unconditional(), Identity((8,)))
    ema = EMA({"now": Constant(0.0)})
    module = DiffusionModule(model, objective, torch.optim.SGD, lambda seen: 1.0, ema, 0, {})
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return module, optimizer


def test_what_levels_are_drawn_by_changes_with_an_optimizer_step_alone():
    """Whatever the number of batches of one."""
    history, schedule = LossHistory(5), DiscreteVP(betas.linear(5, 1e-2, 0.5, per=5))
    module, optimizer = made(torch.nn.Linear(1, 1), history)
    module.on_fit_start()
    for _ in range(2):
        history.observe(schedule.level(torch.tensor([0.2, 1.0], dtype=torch.float64)), torch.ones(2))
        assert history.count.tolist() == [0] * 5
    module.optimizer_step(0, 0, optimizer, lambda: None)
    assert history.count.tolist() == [2, 0, 0, 0, 2]


def test_weights_are_brought_back_before_the_averages_see_them():
    torch.manual_seed(0)
    network = torch.nn.Sequential(MPConv(8, 4), torch.nn.Linear(4, 4))
    module, optimizer = made(network, torch.nn.Identity())

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
    assert torch.equal(module.ema.averages["now"]["network.0.weight"], network[0].weight)
