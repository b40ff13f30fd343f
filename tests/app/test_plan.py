"""The plan of a training against the training itself."""

import pytest
import torch
from configurations import composing
from omegaconf import OmegaConf

from denoiselab.app.commands import plan
from denoiselab.app.config import resolvers
from denoiselab.app.config.overrides import composed
from denoiselab.training.checkpoint_files import CHECKPOINTS, read_checkpoint
from denoiselab.training.gpus import GPUS


def planned(*overrides):
    resolvers.register()
    with composing("plan"):
        return plan.made(OmegaConf.to_container(composed("plan", ["paths.run_dir=run", *overrides]), resolve=True))


def bytes_of(tree):
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(map(bytes_of, parts))


def test_bytes_are_those_of_the_checkpoint_of_a_run(finished):
    checkpoint = read_checkpoint(finished / CHECKPOINTS / "last.ckpt")
    found = planned("network.channels=8", "network.groups=4", "batch_size=32")
    memory = found.memory
    (optimizer,) = checkpoint["optimizer_states"]
    assert memory["weights"] == pytest.approx(bytes_of(checkpoint["state_dict"]), rel=0.05)
    assert memory["gradients"] == memory["weights"]
    assert memory["optimizer"] == pytest.approx(bytes_of(optimizer["state"]), rel=0.05)
    assert memory["averages"] == pytest.approx(bytes_of(checkpoint["denoiselab"]["ema"]), rel=0.05)
    whole = sum(memory[name] for name in ("weights", "optimizer", "averages"))
    assert found.checkpoint_bytes == whole
    assert found.costs.parameters * 4 == memory["weights"]


def test_published_sizes_and_times_by_hand():
    """DiT-XL/2: 118.6 G multiply-adds forward (arXiv 2212.09748, table 4), so 712 GFLOP a step and image."""
    found = planned(
        "gpu=h100", "mfu=0.5", "data=imagenet_256", "data.shape=[4,32,32]", "network=dit_xl_2", "conditioner=label",
        "trainer.num_nodes=2", "trainer.devices=8", "trainer.accumulate_grad_batches=2", "batch_size=1024",
        "max_images=102400",
    )  # fmt: skip
    assert found.costs.flops == pytest.approx(6 * 118.6e9, rel=0.01)
    assert found.costs.parameters == pytest.approx(675e6, rel=0.01)
    assert (found.world, found.micro) == (16, 32)
    step = 1024 * found.costs.flops / (16 * 989e12 * 0.5)
    assert found.step_seconds == pytest.approx(step)
    assert found.seconds == pytest.approx(100 * step)
    assert found.memory["weights"] == pytest.approx(2.7e9, rel=0.01)
    assert found.memory["weights in half precision"] == pytest.approx(1.35e9, rel=0.03)
    assert found.checkpoint_bytes == pytest.approx(10.8e9, rel=0.01)
    assert found.image_bytes == 4 * 32 * 32
    fits = found.largest * found.costs.activation_bytes + sum(found.memory.values())
    assert 0.89 * GPUS["h100"].memory < fits <= 0.9 * GPUS["h100"].memory


def test_what_is_sharded_is_divided_and_blocks_are_gathered():
    """A DiT block of width d has 18 d^2 + 15 d parameters: attention 4, MLP 8, modulation 6 d^2, and biases."""
    options = ["data.shape=[4,16,16]", "network=dit_s_2", "trainer.devices=4", "batch_size=128"]
    whole, shards = planned(*options), planned(*options, "trainer=fsdp2", "trainer.precision=bf16-mixed")
    for name in ("weights", "gradients", "optimizer", "averages"):
        assert shards.memory[name] == whole.memory[name] / 4
    assert shards.memory["gathered blocks"] == 2 * 4 * (18 * 384**2 + 15 * 384)
    assert "gradients on their way" in whole.memory.keys() - shards.memory.keys()
    assert shards.checkpoint_bytes == whole.checkpoint_bytes
    assert shards.largest > whole.largest


def test_calls_with_the_null_condition_are_counted():
    """MeanFlow with guidance calls the network twice more without gradients."""
    given = ("experiment=digits_mean_flow", "conditioner=label", "network.channels=8", "network.groups=4")
    plain, guided = (planned(*given, f"objective.kept={kept}").costs.flops for kept in (0, 0.5))
    assert guided > 1.2 * plain


def test_a_plan_is_shown_and_needs_neither_data_nor_gpus(invoke):
    result = invoke(
        "src/denoiselab/plan/__main__.py", "data=imagenet_64", "network=ddpm", "trainer.devices=4", "gpu=h200"
    )
    assert result.code == 0, result.err
    for words in ("4 x H200 SXM", "M of them trained", "at 40% of 989 TFLOP/s", "gradients on their way", "images/s"):
        assert words in result.out


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("gpus=h100", "gpus=h100: unknown option; did you mean 'gpu' or 'trainer.devices'? allowed at the top: "),
        ("gpu=h1000", "gpu=h1000: unknown; did you mean 'h100'? allowed: a100, h100,"),
        ("mfu=1.5", "mfu=1.5: it is a share of the peak, more than 0 and at most 1; the default is 0.4."),
        ("trainer.devices=auto", "trainer.devices=auto: a plan needs their number, from 1."),
        ("trainer.devices=3", "batch_size=128: must be divisible by devices x trainer.num_nodes x"),
        ("trainer.precision=32-true", "trainer.precision=32-true: peaks are of half precision; give bf16-mixed or"),
        ("image_bytes=-1", "image_bytes=-1: it must be positive, or null"),
        ("image_bytes=true", "image_bytes=True: it must be positive, or null"),
        (
            "trainer=fsdp2 trainer.devices=8 trainer.precision=16-mixed",
            "trainer.precision=16-mixed: is not offered for shard",
        ),
    ],
)
def test_a_plan_refuses(override, says):
    with pytest.raises(ValueError, match="=") as error:
        planned(*override.split())
    assert str(error.value).startswith(says)
