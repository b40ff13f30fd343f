"""The mathematics is light to import: torch, and nothing of Lightning or Hydra."""

from conftest import quick_to_start

SCRIPT = """
import time
import torch
start = time.process_time()
import denoiselab.denoiser, denoiselab.samplers, denoiselab.objectives
seconds = time.process_time() - start
import sys
heavy = ("pytorch_lightning", "lightning", "hydra", "omegaconf", "torchmetrics", "wandb", "scipy", "matplotlib")
print(seconds, *[name for name in heavy if name in sys.modules])
"""


def test_the_core_imports_torch_alone_in_a_fifth_of_a_second():
    """Of the processor's time, which other work on the machine does not stretch; in one of three starts."""
    assert quick_to_start(SCRIPT, 0.2)
