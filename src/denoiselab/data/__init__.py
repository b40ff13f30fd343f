"""Data sets: images or points by name, in an order that is a pure function of (seed, images seen)."""

from denoiselab.data.base import DataSet
from denoiselab.data.clean_samples import clean, in_turn, rows_of, supply
from denoiselab.data.given import MaskFile
from denoiselab.data.images import ImageSet
from denoiselab.data.points import PointSet
from denoiselab.data.reading.record_set import RecordSet
from denoiselab.data.reading.records import Records
from denoiselab.data.sources.arrays import Arrays
from denoiselab.data.sources.digits import Digits
from denoiselab.data.sources.emoji import Emoji, EmojiFont
from denoiselab.data.sources.huggingface import HuggingFace
from denoiselab.data.sources.image_folder import ImageFolder
from denoiselab.data.sources.image_source import ImageSource
from denoiselab.data.sources.image_zip import ImageZip
from denoiselab.data.sources.litdata import LitData
from denoiselab.data.sources.lsun import LSUN
from denoiselab.data.sources.mnist import MNIST, FashionMNIST
from denoiselab.data.sources.plane import Checkerboard, EightGaussians, Pinwheel, SwissRoll, TwoMoons
from denoiselab.data.sources.published_folders import AFHQ, FFHQ, ImageNet
from denoiselab.data.sources.tones import HarmonicTones
from denoiselab.data.sources.torchvision_sets import CIFAR10, CIFAR100, STL10, SVHN, CelebA, Flowers102, Food101
from denoiselab.data.sources.webdataset import WebDataset
from denoiselab.stored import from_uint8, to_uint8

__all__ = [
    "AFHQ", "CIFAR10", "CIFAR100", "FFHQ", "LSUN", "MNIST", "STL10", "SVHN", "Arrays", "CelebA", "Checkerboard",
    "DataSet", "Digits", "EightGaussians", "Emoji", "EmojiFont", "FashionMNIST", "Flowers102", "Food101",
    "HarmonicTones", "HuggingFace", "ImageFolder", "ImageNet", "ImageSet", "ImageSource", "ImageZip", "LitData",
    "MaskFile", "Pinwheel", "PointSet", "RecordSet", "Records", "SwissRoll", "TwoMoons", "WebDataset", "clean",
    "from_uint8", "in_turn", "rows_of", "supply", "to_uint8",
]  # fmt: skip
