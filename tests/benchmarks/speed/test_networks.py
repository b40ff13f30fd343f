"""Our DDPM UNet beside diffusers' UNet2DModel with the same weights: speed on this machine.

Both are called in turn in one process, and medians are compared; the machine's matmul peak is taken in between. The
peer stands in the layout that it has by default, ours as training and sampling have it, channels last.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 7
CIFAR = {"block_out_channels": (128, 256, 256, 256), "attention": (1,), "size": 32, "channels": 3, "groups": 32}
SMALL = {"block_out_channels": (32, 64, 64), "attention": (1,), "size": 32, "channels": 1, "groups": 8}
LARGE = {
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "attention": (4,),
    "size": 256,
    "channels": 3,
    "groups": 32,
}
# Name: the peer's configuration, batch, whether backward too, and the least ratio of its time to ours.
CASES = {
    "35.7 M, forward": (CIFAR, 8, False, 1.15),
    "35.7 M, forward and backward": (CIFAR, 8, True, 1.15),
    "1.6 M, forward": (SMALL, 64, False, 1.25),
    "1.6 M, forward and backward": (SMALL, 64, True, 1.25),
    "114 M, forward": (LARGE, 1, False, 1.15),
}


def pair(block_out_channels, attention, size, channels, groups):
    """diffusers' network, and ours with its weights."""
    from diffusers import UNet2DModel

    from denoiselab.interop.diffusers.pipelines import unet2d
    from denoiselab.networks import DDPMUNet

    levels = range(len(block_out_channels))
    theirs = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        down_block_types=["AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels],
        up_block_types=["AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)],
        block_out_channels=block_out_channels,
        attention_head_dim=None,
        norm_eps=1e-6,
        norm_num_groups=groups,
    )
    layout = unet2d(theirs.config)
    ours = DDPMUNet(**layout.options)
    ours.load_state_dict(layout.to_ours(theirs.state_dict(), "the peer"))
    return theirs, ours.to(memory_format=torch.channels_last)


def seconds(function, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@pytest.mark.parametrize("name", CASES)
def test_speed(name, device, reported):
    options, batch, backward, least = CASES[name]
    batch = batch if device.type == "cpu" else 32 * batch
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    theirs, ours = (network.to(device) for network in pair(**options))
    x = torch.randn(batch, options["channels"], options["size"], options["size"], device=device)
    label = torch.full((batch,), 500.0, device=device)

    def step(call):
        with torch.set_grad_enabled(backward):
            out = call()
        if backward:
            out.square().mean().backward()
        return out.detach()

    calls = {"diffusers": lambda: step(lambda: theirs(x, label).sample), "ours": lambda: step(lambda: ours(x, label))}
    want, got = calls["diffusers"](), calls["ours"]()
    assert (got - want).abs().max() < 3e-5 * want.std()  # float32's rounding over some hundred layers
    matrix = torch.randn(2048, 2048, device=device)
    times = {"diffusers": [], "ours": [], "matmul": []}
    for _ in range(2 if options is LARGE else ROUNDS):
        for key, call in calls.items():
            times[key].append(seconds(call, device))
            times["matmul"].append(seconds(lambda: matrix @ matrix, device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        type(theirs).from_config(theirs.config)(x.to("meta"), label.to("meta"))
    work = counter.get_total_flops() * (3 if backward else 1)  # the peer's, for both
    peak = 2 * 2048**3 / medians["matmul"]
    ratio = medians["diffusers"] / medians["ours"]
    print(
        f"\n{name}, batch {batch}, {torch.get_num_threads()} threads: diffusers {medians['diffusers']:.3f} s "
        f"({work / medians['diffusers'] / peak:.2f} of the matmul peak of {peak / 1e9:.0f} GFLOP/s), "
        f"ours {medians['ours']:.3f} s ({work / medians['ours'] / peak:.2f}), {ratio:.2f}x"
    )
    case = f"DDPM UNet {name}, batch {batch}"
    reported("network", case, {"ours": medians["ours"], "diffusers UNet2DModel": medians["diffusers"]})
    assert ratio >= (least if device.type == "cpu" else 0.9)
