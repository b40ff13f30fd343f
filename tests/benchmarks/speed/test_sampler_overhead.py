"""Time per step beyond the denoiser's call: ours, diffusers' and k-diffusion's, with a no-op model, in one process."""

import time
import warnings
from statistics import median

import diffusers
import pytest
import torch
from peers import k_diffusion

from denoiselab import samplers
from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.spacing import Karras, UniformTime
from denoiselab.samplers.tableaus import euler, heun
from denoiselab.schedules import VPLinear

kd = k_diffusion()

STEPS, ROUNDS, SHAPE = 50, 41, (16, 3, 32, 32)
SCHEDULE = VPLinear()
NOISE = torch.zeros(SHAPE)
PREDICTION = Prediction(torch.zeros(SHAPE), torch.zeros(SHAPE))


def ours(sampler):
    levels = sampler.grid(SCHEDULE, STEPS)
    start = torch.zeros(SHAPE)

    def run():
        sampler.run(lambda x, level: PREDICTION, SCHEDULE, levels, start, Noise(0, torch.arange(SHAPE[0])))

    return run


def of_diffusers(name, **options):
    common = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config({**common, "clip_sample": False, **options})

    def run():
        scheduler.set_timesteps(STEPS)
        x = torch.zeros(SHAPE)
        for t in scheduler.timesteps:
            x_in = scheduler.scale_model_input(x, t)
            x = scheduler.step(PREDICTION.eps, t, x).prev_sample
        return x_in

    return run


def of_k_diffusion(name, **options):
    rule = getattr(kd, f"sample_{name}")

    def run():
        sigmas = kd.get_sigmas_karras(STEPS, 0.01, 80.0)
        rule(lambda x, sigma: PREDICTION.x0, torch.zeros(SHAPE), sigmas, disable=True, **options)

    return run


GRID = Karras()
CASES = {
    "ddim": (
        samplers.DDIM(UniformTime(), STEPS),
        {"diffusers": of_diffusers("DDIM"), "k-diffusion": of_k_diffusion("euler")},
    ),
    "euler": (
        samplers.RhoRK(GRID, STEPS, euler()),
        {"diffusers": of_diffusers("EulerDiscrete"), "k-diffusion": of_k_diffusion("euler")},
    ),
    "heun": (
        samplers.RhoRK(GRID, STEPS, heun()),
        {"diffusers": of_diffusers("HeunDiscrete"), "k-diffusion": of_k_diffusion("heun")},
    ),
    "dpm_2": (
        samplers.DPMSolverSinglestep(GRID, STEPS),
        {"diffusers": of_diffusers("KDPM2Discrete"), "k-diffusion": of_k_diffusion("dpm_2")},
    ),
    "dpmpp_2m": (
        samplers.DPMSolverPP(GRID, STEPS, 2, published=True),
        {"diffusers": of_diffusers("DPMSolverMultistep"), "k-diffusion": of_k_diffusion("dpmpp_2m")},
    ),
    "lms": (
        samplers.RhoAB(GRID, STEPS, 4),
        {"diffusers": of_diffusers("LMSDiscrete"), "k-diffusion": of_k_diffusion("lms")},
    ),
    "unipc": (samplers.UniPC(GRID, STEPS, 3), {"diffusers": of_diffusers("UniPCMultistep", solver_order=3)}),
    "deis": (samplers.TAB(GRID, STEPS, 3), {"diffusers": of_diffusers("DEISMultistep", solver_order=3)}),
    "plms": (samplers.PLMS(GRID, STEPS), {"diffusers": of_diffusers("PNDM", skip_prk_steps=True)}),
    "ancestral": (samplers.Ancestral(UniformTime(), STEPS), {"diffusers": of_diffusers("DDPM")}),
    "euler_ancestral": (
        samplers.Renoised(GRID, STEPS, samplers.RhoRK(GRID, STEPS, euler())),
        {
            "diffusers": of_diffusers("EulerAncestralDiscrete"),
            "k-diffusion": of_k_diffusion("euler_ancestral", noise_sampler=lambda *_: torch.randn(SHAPE)),
        },
    ),
}


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.benchmark
def test_no_slower_than_the_faster_peer(one_thread, reported):
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    slower = []
    print(f"\nms per step: {STEPS} steps, batch {SHAPE}, one thread, median of {ROUNDS} alternating runs")
    for name, (sampler, peers) in CASES.items():
        runs = {"ours": ours(sampler), **peers}
        times = {who: [] for who in runs}
        for round_ in range(ROUNDS + 3):
            for who, run in runs.items():
                taken = seconds(run)
                if round_ >= 3:
                    times[who].append(taken / STEPS * 1e3)
        middle = {who: median(values) for who, values in times.items()}
        reported("sampler step", f"{name}, no-op network", {who: value / 1e3 for who, value in middle.items()})
        best = min(value for who, value in middle.items() if who != "ours")
        print(
            f"{name:16s}",
            "  ".join(f"{who} {value:.3f}" for who, value in middle.items()),
            f"ratio {middle['ours'] / best:.2f}",
        )
        # Where the rule draws noise, the draw is most of the step: ours is a function of the sample's index.
        if middle["ours"] > best and not sampler.stochastic:
            slower.append(name)
    assert not slower


def test_noise_takes_at_most_three_times_as_long_as_randn(device, timed):
    """Ours is a function of seed and sample alone; a generator for each sample is the usual way to have that."""
    noise, size = Noise(0, torch.arange(256, device=device)), (3, 32, 32)

    def generators():
        seeded = (torch.Generator(device).manual_seed(i) for i in range(256))
        return torch.stack([torch.randn(size, generator=one, device=device) for one in seeded])

    seconds = timed(
        "noise", "256x3x32x32",
        {
            "ours": lambda: noise.normal(size),
            "torch.randn": lambda: torch.randn(256, *size, device=device),
            "a torch.Generator a sample": generators,
        },
        rounds=ROUNDS, device=device,
    )  # fmt: skip
    assert seconds["ours"] <= 3 * seconds["torch.randn"]
