"""Train a diffusion model and score every sampler: `python train.py [key=value ...]`, see docs/pages."""

from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_train

if __name__ == "__main__":
    cli.run("train", check_train)
