"""Data sets: images or points by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.archive import ImageZip
from denoiselab.data.arrays import Arrays
from denoiselab.data.base import DataSet
from denoiselab.data.batch import clean, in_turn
from denoiselab.data.digits import Digits
from denoiselab.data.emoji import Emoji, EmojiFont
from denoiselab.data.files import RecordSet
from denoiselab.data.folder import ImageFolder
from denoiselab.data.hub import HuggingFace
from denoiselab.data.idx import MNIST, FashionMNIST
from denoiselab.data.images import ImageSet, from_uint8, to_uint8
from denoiselab.data.lsun import LSUN
from denoiselab.data.optimised import LitData
from denoiselab.data.plane import Checkerboard, EightGaussians, Pinwheel, SwissRoll, TwoMoons
from denoiselab.data.points import PointSet
from denoiselab.data.published import AFHQ, FFHQ, ImageNet
from denoiselab.data.records import Records
from denoiselab.data.shards import WebDataset
from denoiselab.data.source import ImageSource
from denoiselab.data.tones import HarmonicTones
from denoiselab.data.vision import CIFAR10, CIFAR100, STL10, SVHN, CelebA, Flowers102, Food101

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
