"""What scores samples imports heavy packages where it needs them, not at start."""

import subprocess
import sys

SCRIPT = """
import sys
import denoiselab.evaluation, denoiselab.likelihood, denoiselab.media.kinds
from denoiselab.evaluation.report import page, tables
heavy = (
    "pytorch_lightning", "hydra", "omegaconf", "torchmetrics", "torchvision", "torch_fidelity", "torchode", "timm",
    "sklearn", "scipy", "matplotlib", "plotly", "wandb", "diffusers", "transformers",
)
print(*[name for name in heavy if name in sys.modules])
"""


def test_evaluation_imports_no_heavy_package():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
