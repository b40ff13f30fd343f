"""The figures of a training's speed, on a clock that the test sets."""

from types import SimpleNamespace

import pytest
import torch
from test_preparing import Chain

from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.denoiser import Denoiser, LogNoise
from denoiselab.evaluation import cost
from denoiselab.model import Model
from denoiselab.parameterizations import edm
from denoiselab.schedules import EDM
from denoiselab.training import throughput
from denoiselab.training.callbacks import left_out
from denoiselab.training.ema import EMA, Constant
from denoiselab.training.gpus import GPUS, known, named
from denoiselab.training.module import DiffusionModule
from denoiselab.training.throughput import Throughput

BATCH = 10


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        for module in (throughput.time, cost):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)


@pytest.fixture
def training(monkeypatch):
    """A training whose steps wait 0.25 s for data, take 0.5 s forward and 0.25 s backward."""
    clock = Clock(monkeypatch)
    denoiser = Denoiser(Chain(), EDM(), edm, LogNoise())
    model = Model(denoiser, Unconditional(), Identity((8,)))
    module = DiffusionModule(
        model, torch.nn.Identity(), torch.optim.SGD, lambda seen: 1.0, EMA({"e": Constant()}), 0, {}
    )
    rows = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: rows.append((step, metrics)))
    trainer = SimpleNamespace(
        world_size=1, is_global_zero=True, accumulate_grad_batches=1, loggers=[logger], callbacks=[],
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip

    def run(callback, steps, look_after=()):
        trainer.callbacks = [callback]
        callback.setup(trainer, module, "fit")
        callback.on_train_start(trainer, module)
        for step in range(steps):
            clock.now += 0.25
            callback.on_train_batch_start(trainer, module, None, step)
            clock.now += 0.5
            callback.on_before_backward(trainer, module, None)
            clock.now += 0.25
            module.images_seen += BATCH
            callback.on_train_batch_end(trainer, module, {}, {"position": range(BATCH)}, step)
            if step in look_after:
                with left_out(trainer):
                    clock.now += 1000
        callback.on_train_end(trainer, module)
        return rows

    return run


def test_first_steps_and_looks_are_left_out(training, capsys):
    rows = training(Throughput(lambda: 2e12, "32-true", 50, skip_steps=5, count_flops=True), 20, look_after=(2, 7, 12))
    assert [step for step, _ in rows] == [100, 150, 200]
    for _, metrics in rows:
        assert metrics["throughput/images_per_second"] == pytest.approx(BATCH)
        assert metrics["throughput/data_wait_seconds"] == pytest.approx(5 * 0.25)
        assert metrics["throughput/tflops_per_second"] == pytest.approx(20)
        assert metrics["throughput/memory_gib"] > 0
        assert "throughput/share_of_peak" not in metrics  # no GPU of the table
    assert "10.0 images/s, 20 TFLOP/s, 25.0% of the time waiting for data" in capsys.readouterr().err


def test_the_rank_that_is_slow_by_itself_is_named(training, monkeypatch):
    """Ranks wait for each other in the backward pass, so their steps take equally long."""
    own = []

    def gathered(self, values):
        own.append(values)
        return torch.tensor([values, [9.0, values[1] + 3, 2.0**40]], dtype=torch.float64)

    monkeypatch.setattr(Throughput, "_gathered", gathered)
    rows = training(Throughput(lambda: 0.0, "32-true", 50, skip_steps=0), 5)
    metrics = rows[0][1]
    assert own[0][:2] == pytest.approx([1.25, 1.25 + 5 * 0.5])
    assert metrics["throughput/slowest_rank"] == 1
    assert metrics["throughput/slowest_excess_seconds"] == pytest.approx(1.5)
    assert metrics["throughput/data_wait_seconds"] == 9
    assert metrics["throughput/memory_gib"] == 2**10


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("x86_64, 2 thread(s)", None),
    ],
)
def test_gpus_are_known_by_their_names(device, key):
    assert known(device) == (GPUS[key] if key else None)


def test_a_gpu_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match=r"gpu=h1000: unknown; did you mean 'h100'\?"):
        named("h1000")
