"""The mathematics is light to import: torch, and nothing of Lightning or Hydra."""

import subprocess
import sys

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
    """Of the processor's time, which other work on the machine does not stretch; the least of three starts."""
    results = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert all(len(result) == 1 for result in results), results
    assert min(float(result[0]) for result in results) < 0.2
