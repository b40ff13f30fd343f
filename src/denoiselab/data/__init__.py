"""Data sets: images or points by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.archive import ImageZip
from denoiselab.data.arrays import Arrays
from denoiselab.data.base import DataSet
from denoiselab.data.batch import clean
from denoiselab.data.digits import Digits
from denoiselab.data.files import RecordSet
from denoiselab.data.folder import ImageFolder
from denoiselab.data.images import ImageSet, from_uint8, to_uint8
from denoiselab.data.plane import Checkerboard, EightGaussians, Pinwheel, SwissRoll, TwoMoons
from denoiselab.data.points import PointSet
from denoiselab.data.records import Records
from denoiselab.data.source import ImageSource

__all__ = [
    "Arrays",
    "Checkerboard",
    "DataSet",
    "Digits",
    "EightGaussians",
    "ImageFolder",
    "ImageSet",
    "ImageSource",
    "ImageZip",
    "Pinwheel",
    "PointSet",
    "RecordSet",
    "Records",
    "SwissRoll",
    "TwoMoons",
    "clean",
    "from_uint8",
    "to_uint8",
]
