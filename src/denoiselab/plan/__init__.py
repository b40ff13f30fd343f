"""What a training will cost, before it starts: `python -m denoiselab.plan gpu=h100 [key=value ...]`."""
