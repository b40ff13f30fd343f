"""Evaluation and sampling import heavy packages where they need them, not at start."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import {modules}
heavy = (
    {more}"pytorch_lightning", "torchmetrics", "torchvision", "torch_fidelity", "torchode", "timm",
    "sklearn", "scipy", "matplotlib", "plotly", "wandb", "diffusers", "transformers",
)
print(*[name for name in heavy if name in sys.modules])
"""


EVALUATION = "denoiselab.evaluation, denoiselab.likelihood, denoiselab.evaluation.report.page"
SAMPLING = "denoiselab.app.tasks.generate, denoiselab.app.tasks.frontier"


@pytest.mark.parametrize(("modules", "more"), [(EVALUATION, '"hydra", "omegaconf", '), (SAMPLING, "")])
def test_no_heavy_package_is_imported(modules, more):
    script = SCRIPT.format(modules=modules, more=more)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
