"""The program."""

from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_plan

if __name__ == "__main__":
    cli.run("plan", check_plan)
