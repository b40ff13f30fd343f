"""Do a task with a checkpoint, such as draw samples: `python sample.py ckpt=<run> [task=...] [key=value ...]`."""

from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_sample

if __name__ == "__main__":
    cli.run("sample", check_sample)
