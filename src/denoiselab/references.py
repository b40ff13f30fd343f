"""Compute the statistics that scores are taken against: `python -m denoiselab.references [key=value ...]`."""

from denoiselab.app.commands import cli

if __name__ == "__main__":
    cli.run("references")
