"""Data sets: images or points by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.base import DataSet
from denoiselab.data.batch import clean, in_turn
from denoiselab.data.digits import Digits
from denoiselab.data.images import ImageSet, from_uint8, to_uint8
from denoiselab.data.plane import Checkerboard, EightGaussians, Pinwheel, SwissRoll, TwoMoons
from denoiselab.data.points import PointSet

__all__ = [
    "Checkerboard",
    "DataSet",
    "Digits",
    "EightGaussians",
    "ImageSet",
    "Pinwheel",
    "PointSet",
    "SwissRoll",
    "TwoMoons",
    "clean",
    "from_uint8",
    "in_turn",
    "to_uint8",
]
