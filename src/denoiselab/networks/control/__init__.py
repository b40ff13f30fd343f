"""Frozen networks that trained copies of their parts control."""

from denoiselab.networks.control.text_unet import ControlledTextUNet

__all__ = ["ControlledTextUNet"]
