"""The update of an average of weights: ours, torch's and diffusers', of the network of CIFAR-10's DDPM."""

import torch
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import denoiselab
from denoiselab.training.ema import EMA, Constant

DECAY = 0.999


def test_an_update_is_no_slower_than_torchs(device, timed):
    torch.manual_seed(0)
    network = denoiselab.network("ddpm", shape=[3, 32, 32]).to(device)
    ours = EMA({"ema": Constant(DECAY)})
    ours.start(network)
    torchs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    diffusers = EMAModel(network.parameters(), decay=DECAY, foreach=True)
    torchs.update_parameters(network)  # which copies
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    ours.update(network, 128, 128)
    torchs.update_parameters(network)
    same = zip(ours.averages["ema"].values(), torchs.module.parameters(), strict=True)
    assert all(torch.allclose(own, theirs, atol=1e-6) for own, theirs in same)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    seconds = timed(
        "average of weights", f"one update, {numbers / 1e6:.1f} M numbers",
        {
            "ours": lambda: ours.update(network, 256, 128),
            "torch.optim.swa_utils": lambda: torchs.update_parameters(network),
            "diffusers EMAModel": lambda: diffusers.step(network.parameters()),
        },
        rounds=15, device=device,
    )  # fmt: skip
    assert seconds["ours"] <= 1.1 * seconds["torch.optim.swa_utils"]
