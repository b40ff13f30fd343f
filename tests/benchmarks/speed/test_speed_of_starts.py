"""Seconds until a program can begin, each in a fresh process, beside what the peers take for the same."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.benchmark

CASES = {
    "a sampler in Python": (
        "import denoiselab; denoiselab.sampler('dpmpp_2m')",
        {"diffusers": "from diffusers import DPMSolverMultistepScheduler as S; S()"},
    ),
    "a network of 36 M numbers": (
        "import denoiselab; denoiselab.network('ddpm', shape=[3, 32, 32])",
        {
            "diffusers": "from diffusers import UNet2DModel as N; N(sample_size=32, block_out_channels=[128, 256, 256, "
            "256], down_block_types=['DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'], up_block_types="
            "['UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'])"
        },
    ),
    "train.py, its configuration composed and checked": (
        ["train.py", "debug=fast_dev_run", "--cfg", "job"],
        {"the imports of torch, Lightning and Hydra": "import torch, pytorch_lightning, hydra"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_starts(case, timed):
    own, peers = CASES[case]

    def started(what):
        words = ["-c", what] if isinstance(what, str) else what
        return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)

    calls = {"ours": started(own), **{name: started(what) for name, what in peers.items()}}
    seconds = timed("start", case, calls, rounds=3, warm=False)
    assert seconds["ours"] <= 2 * max(seconds[name] for name in peers)
