"""Data sets: images or points by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.base import DataSet
from denoiselab.data.batch import clean, in_turn
from denoiselab.data.images import ImageSet, from_uint8, to_uint8
from denoiselab.data.points import PointSet
from denoiselab.data.reading.files import RecordSet
from denoiselab.data.reading.records import Records
from denoiselab.data.sources.archive import ImageZip
from denoiselab.data.sources.arrays import Arrays
from denoiselab.data.sources.digits import Digits
from denoiselab.data.sources.emoji import Emoji, EmojiFont
from denoiselab.data.sources.folder import ImageFolder
from denoiselab.data.sources.hub import HuggingFace
from denoiselab.data.sources.idx import MNIST, FashionMNIST
from denoiselab.data.sources.litdata import LitData
from denoiselab.data.sources.lsun import LSUN
from denoiselab.data.sources.plane import Checkerboard, EightGaussians, Pinwheel, SwissRoll, TwoMoons
from denoiselab.data.sources.published import AFHQ, FFHQ, ImageNet
from denoiselab.data.sources.shards import WebDataset
from denoiselab.data.sources.source import ImageSource
from denoiselab.data.sources.tones import HarmonicTones
from denoiselab.data.sources.vision import CIFAR10, CIFAR100, STL10, SVHN, CelebA, Flowers102, Food101

__all__ = [
    "AFHQ",
    "CIFAR10",
    "CIFAR100",
    "FFHQ",
    "LSUN",
    "MNIST",
    "STL10",
    "SVHN",
    "Arrays",
    "CelebA",
    "Checkerboard",
    "DataSet",
    "Digits",
    "EightGaussians",
    "Emoji",
    "EmojiFont",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "HarmonicTones",
    "HuggingFace",
    "ImageFolder",
    "ImageNet",
    "ImageSet",
    "ImageSource",
    "ImageZip",
    "LitData",
    "Pinwheel",
    "PointSet",
    "RecordSet",
    "Records",
    "SwissRoll",
    "TwoMoons",
    "WebDataset",
    "clean",
    "from_uint8",
    "in_turn",
    "to_uint8",
]
