"""Show frontiers that were scored before, on one page or on W&B: `python -m denoiselab.report [key=value ...]`."""

from denoiselab.app.commands import cli

if __name__ == "__main__":
    cli.run("report")
