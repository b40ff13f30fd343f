"""Checks on one GPU, in one process, on an H200 in an estimated 7 minutes: `pytest -m gpu -n 0 tests/gpu -s`.

Not run on a GPU so far.

Each but the last runs on the CPU too, with tiny sizes, so that the checks themselves are known to run:
`pytest -m benchmark tests/gpu`.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from conftest import QUICK, ROOT
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from training import OBJECTIVE, model, train, wait

import denoiselab
from denoiselab import progress
from denoiselab.evaluation import Measure, Score, Subject
from denoiselab.evaluation.cell import Scoring
from denoiselab.evaluation.metrics.frechet import frechet_distance
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.guidance import Guidance
from denoiselab.model import Drawing
from denoiselab.networks.base import blocks
from denoiselab.objectives import MeanFlow
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.trained.costs import step_costs
from denoiselab.training import sharded_checkpoints
from denoiselab.training.gpus import known
from denoiselab.training.sharding import shard, whole

NO_GPU = "this machine has no GPU that torch can use"
CPU = pytest.param("cpu", marks=pytest.mark.benchmark)
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)])
EACH = pytest.mark.parametrize("device", [CPU, GPU], indirect=True)
TINY = ("ddpm_tiny", (1, 8, 8))


@pytest.fixture
def device(request):
    """The device; afterwards its memory is free and the compiler fresh."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield torch.device(request.param)
    torch.compiler.reset()
    if request.param == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@pytest.fixture
def group(device, tmp_path):
    """A group of this process alone: NCCL's on a GPU, gloo's on the CPU."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sizes(device, tiny, full):
    return full if device.type == "cuda" else tiny


@EACH
def test_the_group_of_one_reduces(device, group):
    numbers = torch.ones(3, device=device)
    dist.all_reduce(numbers)
    assert numbers.tolist() == [1, 1, 1]


@EACH
def test_losses_are_those_of_the_cpu(device):
    steps = sizes(device, 4, 20)
    here, there = (train(model(torch.device(one), *TINY), steps, 32).losses for one in (device, "cpu"))
    assert here == pytest.approx(there, rel=1e-4)


@EACH
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_as_well(device, precision):
    steps, batch = sizes(device, (8, 8), (200, 128))
    half, full = (train(model(device, *TINY), steps, batch, p) for p in (precision, "32-true"))
    assert half.dtypes == full.dtypes == {torch.float32}
    last = steps // 4
    assert sum(half.losses[-last:]) == pytest.approx(sum(full.losses[-last:]), rel=0.03)


@EACH
def test_the_fused_optimizer_is_the_plain_one(device):
    fused, plain = (
        train(model(device, *TINY), 5, 16, optimizer=lambda p, f=f: torch.optim.AdamW(p, lr=1e-4, fused=f), clip=0.1)
        for f in (True, False)
    )
    assert torch.allclose(fused.weights, plain.weights, atol=1e-6)


@EACH
@pytest.mark.parametrize("name", ["ddpm", "dit_b_2"])
def test_compiled_blocks_are_the_plain_ones(device, name):
    steps, batch, backend = sizes(device, (2, 2, "eager"), (20, 64, "inductor"))
    name, shape = sizes(device, (f"{name.partition('_')[0]}_tiny", (1, 8, 8)), (name, (3, 32, 32)))
    precision = sizes(device, "32-true", "bf16-true")
    plain, fast = (
        train(model(device, name, shape), steps, batch, precision, how, backend) for how in ("off", "per_block")
    )
    print(f"{name} on {device}: {fast.compiled}; {fast.images_per_second / plain.images_per_second:.2f} times as fast")
    assert not fast.compiled.breaks
    assert not fast.compiled.limit
    assert fast.losses == pytest.approx(plain.losses, rel=1e-2)


def speed(device, made, batch, precision, compiler):
    """Images a second, and TFLOP/s with their share of the peak."""
    flops = step_costs(made, OBJECTIVE, precision).flops
    found = train(made, sizes(device, 2, 30), batch, precision, compiler, sizes(device, "eager", "inductor"))
    gpu = known(torch.cuda.get_device_name()) if device.type == "cuda" else None
    share = found.images_per_second * flops / gpu.peak if gpu else float("nan")
    print(
        f"{type(made.trained.network).__name__} batch {batch} {precision} compile={compiler}: "
        f"{found.images_per_second:.1f} images/s, {found.images_per_second * flops / 1e12:.3g} TFLOP/s, share of peak "
        f"{share:.3f}, {found.peak / 1e9:.2f} GB"
    )
    return found, share


@EACH
def test_speed_and_memory_of_the_unet_of_cifar(device):
    name, shape, batch = sizes(device, (*TINY, 4), ("ddpm", (3, 32, 32), 256))
    for precision in ("bf16-mixed", "bf16-true"):
        for compiler in ("off", "per_block"):
            speed(device, model(device, name, shape), batch, precision, compiler)


@EACH
def test_speed_and_memory_of_dit_beside_diffusers(device):
    """The goal on an H100 or H200: 0.35 of the dense peak, and faster than diffusers' class, eager and compiled."""
    from diffusers import DiTTransformer2DModel

    name, batch, sides = sizes(device, ("dit_tiny", 2, (4, 4, 48)), ("dit_xl_2", 64, (28, 16, 72)))
    depth, heads, features = sides
    shape = sizes(device, (4, 8, 8), (4, 32, 32))
    options = [f"depth={depth}", f"heads={heads}", f"width={heads * features}"]
    ours = model(device, name, shape, *options, classes=1000)
    found, share = speed(device, ours, batch, "bf16-true", "per_block")
    costs = step_costs(ours, OBJECTIVE, "bf16-true")
    planned = 4 * 5 * costs.parameters + costs.fixed_bytes + batch * costs.activation_bytes
    theirs = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=features, in_channels=4, num_layers=depth, sample_size=shape[1],
        num_embeds_ada_norm=1000,
    ).to(device)  # fmt: skip
    rates = {}
    for kind in sizes(device, ("eager",), ("eager", "compiled")):
        call = torch.compile(theirs) if kind == "compiled" else theirs
        rates[kind] = peer_speed(device, theirs, call, shape, batch, sizes(device, 2, 20))
        print(
            f"diffusers {kind}: {rates[kind]:.1f} images/s; ours {found.images_per_second / rates[kind]:.2f} times that"
        )
    if device.type == "cuda":
        print(f"planned {planned / 1e9:.2f} GB")
        assert found.peak == pytest.approx(planned, rel=0.2)
        assert share >= 0.35
        assert found.images_per_second > max(rates.values())


def peer_speed(device, network, call, shape, batch, steps):
    """Images a second of a loop with mixed precision, AdamW and no averages."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x, t = torch.randn(batch, *shape, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
    for step in range(steps):
        if step == steps // 2:
            wait(device)
            start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = call(x, timestep=t, class_labels=t).sample.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wait(device)
    return batch * (steps - steps // 2) / (time.perf_counter() - start)


def waiting_is_an_error(moment):
    """Between the steps of a batch; at its end samples are looked at."""
    if moment.x.is_cuda:
        torch.cuda.set_sync_debug_mode("error" if moment.number < moment.steps else "default")


@EACH
def test_a_cell_of_a_frontier_waits_for_the_device_at_the_ends_of_batches_only(device):
    """Its stopwatch and its bar are in the loop, too."""

    class Pixels:
        metric, lower_is_better = "fd_pixels", {"fd_pixels": True}

        def statistics(self, start=0, strata=1):
            return GaussianStatistics(64, lambda images: images.float().flatten(1) / 255)

        def scores(self, statistics, reference):
            return {self.metric: Score(frechet_distance(statistics, reference))}

    reference = GaussianStatistics(64)
    reference.update(torch.rand(100, 64, generator=torch.Generator().manual_seed(0)))
    moments = []

    def check(moment):
        moments.append(moment.number)
        waiting_is_an_error(moment)

    subject = Subject(model(device, *TINY), lambda name: nullcontext())
    scoring = Scoring(subject, Measure(Pixels(), reference), 100, 50, 0, check, progress.bar("", 1000, shown=False))
    record = scoring(Guidance(), denoiselab.sampler("ddim", steps=5), 5, 5).record
    assert moments == [*range(1, 6), *range(1, 6)]
    assert record["score"] > 0
    print({key: record[key] for key in ("call_ms", "rule_ms", "decode_ms", "ms_per_sample")})


@EACH
@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_sampling_waits_for_the_device_at_its_end_only(device, name):
    made = model(device, *TINY)
    sampler = denoiselab.sampler(name, steps=5)
    wanted = made.sample(sampler, 32, seed=0)  # what is made once
    with torch.no_grad(), made.evaluating():
        index = torch.arange(32, device=device)
        whole = made.draw(index, Drawing(sampler, 0), waiting_is_an_error)[0]
    assert whole.shape[0] == len(wanted)
    with torch.no_grad(), made.evaluating():
        parts = [made.draw(index[i : i + 8], Drawing(sampler, 0), lambda moment: None)[0] for i in range(0, 32, 8)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-3)


@EACH
def test_sampling_is_limited_by_the_network(device):
    """The rule of a step takes at most 2 % beside the network of CIFAR-10's size."""
    name, shape, batch = sizes(device, (*TINY, 8), ("ddpm", (3, 32, 32), 256))
    made = model(device, name, shape)
    sampler = denoiselab.sampler("ddim", steps=20)
    x, label = torch.randn(batch, *shape, device=device), torch.zeros(batch, device=device)

    def seconds(work):
        times = []
        for _ in range(3):
            wait(device)
            start = time.perf_counter()
            work()
            wait(device)
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.no_grad(), made.evaluating():
        network = seconds(lambda: [made.trained.network(x, label) for _ in range(20)])
    whole = seconds(lambda: made.sample(sampler, batch, seed=0))
    print(f"sampling {batch} images of {shape} on {device}: overhead {whole / network - 1:.1%}")
    if device.type == "cuda":
        assert whole < 1.02 * network


@EACH
def test_activations_that_are_computed_again_save_memory(device):
    name, batch = sizes(device, ("dit_tiny", 4), ("dit_b_2", 128))
    plain, again = (
        train(model(device, name, (4, 32, 32), f"checkpoint_levels={levels}"), 4, batch) for levels in ("[]", "all")
    )
    assert again.losses == pytest.approx(plain.losses, rel=1e-4)
    if device.type == "cuda":
        print(f"peak {plain.peak / 1e9:.2f} and {again.peak / 1e9:.2f} GB")
        assert again.peak < 0.6 * plain.peak


@EACH
def test_a_sharded_network_of_one_rank_has_the_gradients_of_the_plain_one(device, group):
    from torch.distributed.fsdp import fully_shard

    made = model(device, *TINY)
    made.trained.network.to(memory_format=torch.contiguous_format)  # as the trainer's sharding has it
    for block in (*blocks(made.trained.network), made.trained.network):
        fully_shard(block)
    x = torch.randn(16, *TINY[1], generator=torch.Generator().manual_seed(0)).to(device)
    loss = nn.functional.mse_loss(made.trained.network(x, torch.zeros(16, device=device)), x)
    loss.backward()
    reference = model(device, *TINY)
    want = nn.functional.mse_loss(reference.trained.network(x, torch.zeros(16, device=device)), x)
    want.backward()
    for (name, mine), theirs in zip(made.trained.named_parameters(), reference.trained.parameters(), strict=True):
        assert torch.allclose(mine.grad.full_tensor(), theirs.grad, atol=1e-5), name


class Root(nn.Module):
    """What `shard` takes: a network with the step of its training."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, x):
        return nn.functional.mse_loss(self.network(x, x.new_zeros(len(x))), x)

    def touch(self):
        pass


def five_steps(root, device):
    optimizer = torch.optim.AdamW(root.parameters(), lr=1e-3)
    for step in range(5):
        x = torch.randn(16, *TINY[1], generator=torch.Generator().manual_seed(step)).to(device)
        root.training_step(x).backward()
        optimizer.step()
        optimizer.zero_grad()


@EACH
def test_the_trainings_own_sharding_and_its_checkpoints_on_one_rank(device, group, tmp_path):
    contiguous = {"layout": torch.contiguous_format}
    ours, plain = (Root(model(device, *TINY, **contiguous).trained.network) for _ in range(2))
    numbers = shard(ours, blocks(ours.network), init_device_mesh(device.type, (1,)))
    for root in (ours, plain):
        five_steps(root, device)
    content = {"state_dict": ours.state_dict(), "optimizer_states": [], "denoiselab": {"ema": {}}}
    aside = dist.new_group(backend="gloo")
    write = sharded_checkpoints.written(
        content, tmp_path / "last.ckpt", 1, aside, lambda place: place[-1] in numbers, copy=True
    )
    with whole(ours, numbers):
        found = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.to_local().zero_()
    write()  # of what was copied
    stored = sharded_checkpoints.read(tmp_path / "last.ckpt")["state_dict"]
    for name, want in plain.named_parameters():
        assert torch.allclose(found[name], want, atol=1e-5), name
        assert torch.equal(stored[name], found[name].cpu()), name


@EACH
def test_the_order_of_channels_in_memory_changes_speed_alone(device):
    name, shape, steps, batch = sizes(device, (*TINY, 2, 4), ("ddpm", (3, 32, 32), 20, 256))
    precision = sizes(device, "32-true", "bf16-mixed")
    last, first = (
        train(model(device, name, shape, layout=one), steps, batch, precision)
        for one in (torch.channels_last, torch.contiguous_format)
    )
    assert last.losses == pytest.approx(first.losses, rel=sizes(device, 1e-4, 1e-2))
    print(f"{name} on {device}: channels last {last.images_per_second / first.images_per_second:.2f} times as fast")


@EACH
def test_forward_derivatives_in_half_precision(device):
    """MeanFlow's, which leave autocast."""
    steps, batch = sizes(device, (2, 4), (20, 64))
    objective = MeanFlow(UniformTime(), share=0.5)
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        made = model(device, "dit_tiny", (1, 8, 8), "second_time=true")
        losses[precision] = train(made, steps, batch, precision, objective=objective).losses
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)


@EACH
@pytest.mark.timeout(300)
def test_a_training_that_is_told_to_stop_goes_on(device, tmp_path):
    run = tmp_path / "run"
    words = [
        sys.executable, "train.py", *QUICK, f"trainer={sizes(device, 'cpu', 'gpu')}", "logger=none", "batch_size=32",
        f"max_images={sizes(device, 3200, 16000)}", "callbacks.checkpoints.every_images=320",
        "callbacks.loss_log.every_images=320", f"paths.log_dir={tmp_path}", f"paths.run_dir={run}",
    ]  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143, err
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    with (run / "metrics.csv").open() as file:
        seen = [int(row["images_seen"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert seen == [*range(320, sizes(device, 3201, 16001), 320)]  # none lost, none twice


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
def test_the_program_runs_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "train.py"]
    arguments = [*QUICK, "trainer=gpu", "logger=csv", f"paths.log_dir={tmp_path}"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "throughput" in done.stderr or "images seen" in done.stderr
