"""Published data sets that torchvision reads: CIFAR, SVHN, STL-10, CelebA, Flowers and Food, with official splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denoiselab.data.reading.image_files import open_image
from denoiselab.data.sources.torchvision_records import VisionRecords, VisionSource


@dataclass(kw_only=True)
class CIFAR10(VisionSource):
    """50,000 + 10,000 photographs, 32x32, 10 classes.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    kind = "CIFAR10"
    needs = "the folder cifar-10-batches-py with data_batch_1 to data_batch_5, test_batch and batches.meta"
    where = "They are in cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html."

    def _options(self, split: str) -> dict[str, Any]:
        return {"train": split == "train"}

    def _labels(self, part: Any) -> Any:
        return part.targets


@dataclass(kw_only=True)
class CIFAR100(CIFAR10):
    """50,000 + 10,000 photographs, 32x32, 100 classes. Source: as CIFAR10."""

    kind = "CIFAR100"
    needs = "the folder cifar-100-python with train, test and meta"
    where = "They are in cifar-100-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html."


@dataclass(kw_only=True)
class SVHN(VisionSource):
    """73,257 + 26,032 digits of house numbers, 32x32, 10 classes. Source: Netzer et al., 2011.

    Args:
        extra: Train on the 531,131 easier extra images too.
    """

    extra: bool = False

    kind = "SVHN"
    needs = "the files train_32x32.mat, test_32x32.mat and, for data.extra=true, extra_32x32.mat"
    where = "They are at ufldl.stanford.edu/housenumbers."

    def records(self) -> VisionRecords:
        return self._read("train", *(["extra"] if self.extra else []))

    def _classes(self, part: Any) -> Sequence[str]:
        return "0123456789"


@dataclass(kw_only=True)
class STL10(VisionSource):
    """Photographs, 96x96: 5,000 of 10 classes, 100,000 without, 8,000 held out. Source: Coates, Ng and Lee, 2011.

    Args:
        split: For training: labelled images, unlabelled ones or both; the latter two have no classes, and 2.7 GiB.
    """

    split: Literal["train", "unlabeled", "train+unlabeled"] = "train"

    kind = "STL10"
    needs = (
        "the folder stl10_binary with train_X.bin, train_y.bin, unlabeled_X.bin, test_X.bin, test_y.bin and "
        "class_names.txt"
    )
    where = "They are in stl10_binary.tar.gz of ai.stanford.edu/~acoates/stl10."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split != "train" and self.num_classes is not None:
            raise ValueError(f"data.split={self.split}: it has unlabelled images; set data.num_classes=null.")

    def records(self) -> VisionRecords:
        return self._read(self.split)

    def _labels(self, part: Any) -> Any:
        return part.labels if self.split == "train" else np.zeros(len(part), np.int64)

    def _classes(self, part: Any) -> Sequence[str]:
        classes: Sequence[str] = part.classes
        return classes if self.split == "train" else ()


@dataclass(kw_only=True)
class CelebA(VisionSource):
    """162,770 + 19,962 aligned faces of celebrities, 178x218; for research only. Source: Liu et al., arXiv 1411.7766.

    The validation split is not used. `download` needs the package gdown.

    Args:
        attribute: One of the 40 of list_attr_celeba.txt as two classes; None for no classes.
        crop: Left, top, right and bottom of the part of each image to keep, in pixels; None keeps all. The published
            64x64 models of DDIM (arXiv 2010.02502) use [25, 57, 153, 185].
    """

    attribute: str | None = None
    crop: Sequence[int] | None = None

    kind = "CelebA"
    needs = (
        "the folder celeba with img_align_celeba/, list_attr_celeba.txt, list_eval_partition.txt, "
        "identity_CelebA.txt, list_bbox_celeba.txt and list_landmarks_align_celeba.txt"
    )
    where = "They are at mmlab.ie.cuhk.edu.hk/projects/CelebA.html."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            left, top, right, bottom = self.crop if len(self.crop) == 4 else (0, 0, 0, 0)
            if not (0 <= left < right <= 178 and 0 <= top < bottom <= 218):
                raise ValueError(
                    f"data.crop={list(self.crop)}: it must be left, top, right, bottom within 178x218 pixels."
                )

    def _read(self, *splits: str, **rest: Any) -> VisionRecords:
        left, top, right, bottom = self.crop or (0, 0, 178, 218)
        return super()._read(*splits, crop=None if self.crop is None else (left, top, right, bottom))

    def _labels(self, part: Any) -> Any:
        if self.attribute is None:
            return np.zeros(len(part), np.int64)
        names = [name for name in part.attr_names if name]
        if self.attribute not in names:
            raise ValueError(f"data.attribute={self.attribute}: unknown; allowed: {', '.join(names)}.")
        return part.attr[:, names.index(self.attribute)]

    def _classes(self, part: Any) -> Sequence[str]:
        return () if self.attribute is None else (f"not {self.attribute}", self.attribute)

    def _paths(self, part: Any) -> Sequence[Path] | None:
        return [Path(part.root, part.base_folder, "img_align_celeba", name) for name in part.filename]


@dataclass(kw_only=True)
class _Photographs(VisionSource):
    """Photographs of many sizes, in files that torchvision lists."""

    def _options(self, split: str) -> dict[str, Any]:
        return {"split": split, "loader": open_image}  # undecoded, so that format and size are checked first

    def _labels(self, part: Any) -> Any:
        return part._labels

    def _paths(self, part: Any) -> Sequence[Path] | None:
        out: Sequence[Path] | None = part._image_files
        return out


@dataclass(kw_only=True)
class Flowers102(_Photographs):
    """8,189 photographs of flowers, 102 classes. Source: Nilsback and Zisserman, 2008.

    Args:
        splits: Official ones to train on, of train (1,020), val (1,020) and test (6,149). If test is not among them, it
            is held out; otherwise the fraction data.validation of the images is.
    """

    splits: Sequence[Literal["train", "val", "test"]] = ("train", "val")

    kind = "Flowers102"
    needs = "the folder flowers-102 with jpg/, imagelabels.mat and setid.mat"
    where = "They are at www.robots.ox.ac.uk/~vgg/data/flowers/102."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"data.splits={list(self.splits)}: it must name one or more of train, val, test, once.")

    def records(self) -> VisionRecords:
        return self._read(*self.splits)

    def held_out(self) -> VisionRecords | None:
        return None if "test" in self.splits else self._read("test")


@dataclass(kw_only=True)
class Food101(_Photographs):
    """75,750 + 25,250 photographs of dishes, 101 classes. Source: Bossard, Guillaumin and Van Gool, 2014."""

    kind = "Food101"
    needs = "the folder food-101 with images/ and meta/"
    where = "They are in food-101.tar.gz of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101."
