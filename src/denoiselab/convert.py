"""Convert any images to shards, once: `python -m denoiselab.convert data=... out=... [key=value ...]`."""

from denoiselab.app.commands import cli

if __name__ == "__main__":
    cli.run("convert")
