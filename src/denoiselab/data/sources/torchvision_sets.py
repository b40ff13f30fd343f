"""Published data sets that torchvision reads: CIFAR, SVHN, STL-10, CelebA, Flowers and Food, with official splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from denoiselab.data.reading.image_files import opened
from denoiselab.data.sources.torchvision_records import VisionRecords, VisionSource


@dataclass(kw_only=True)
class CIFAR10(VisionSource):
    """50,000 + 10,000 photographs, 32x32, 10 classes.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    kind = "CIFAR10"
    lies = "the folder cifar-10-batches-py with data_batch_1 to data_batch_5, test_batch and batches.meta"
    where = "They are in cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html."

    def records(self) -> VisionRecords:
        """The training split."""
        return self._split(train=True)

    def held_out(self) -> VisionRecords:
        """The test split."""
        return self._split(train=False)

    def _split(self, *, train: bool) -> VisionRecords:
        return self._read([{"train": train}], labels=lambda part: part.targets, classes=lambda part: part.classes)


@dataclass(kw_only=True)
class CIFAR100(CIFAR10):
    """50,000 + 10,000 photographs, 32x32, 100 classes. Source: as CIFAR10."""

    kind = "CIFAR100"
    lies = "the folder cifar-100-python with train, test and meta"
    where = "They are in cifar-100-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html."


@dataclass(kw_only=True)
class SVHN(VisionSource):
    """73,257 + 26,032 digits of house numbers, 32x32, 10 classes. Source: Netzer et al., 2011.

    Args:
        root: Folder of the .mat files.
        download: Let torchvision fetch what is not there.
        extra: Train on the 531,131 easier extra images too.
    """

    extra: bool = False

    kind = "SVHN"
    lies = "the files train_32x32.mat, test_32x32.mat and, for data.extra=true, extra_32x32.mat"
    where = "They are to be had from ufldl.stanford.edu/housenumbers."

    def records(self) -> VisionRecords:
        """The training split."""
        return self._split("train", *(["extra"] if self.extra else []))

    def held_out(self) -> VisionRecords:
        """The test split."""
        return self._split("test")

    def _split(self, *splits: str) -> VisionRecords:
        return self._read(
            [{"split": split} for split in splits],
            labels=lambda part: part.labels,
            classes=lambda part: "0123456789",
        )


@dataclass(kw_only=True)
class STL10(VisionSource):
    """Photographs, 96x96: 5,000 of 10 classes, 100,000 of none, 8,000 held out. Source: Coates, Ng and Lee, 2011.

    Args:
        root: Folder that holds stl10_binary.
        download: Let torchvision fetch what is not there.
        split: Of training: labelled images, unlabelled ones or both; the latter two have no classes.
    """

    split: Literal["train", "unlabeled", "train+unlabeled"] = "train"

    kind = "STL10"
    lies = (
        "the folder stl10_binary with train_X.bin, train_y.bin, unlabeled_X.bin, test_X.bin, test_y.bin and "
        "class_names.txt"
    )
    where = "They are in stl10_binary.tar.gz of ai.stanford.edu/~acoates/stl10."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split != "train" and self.num_classes is not None:
            raise ValueError(f"data.split={self.split}: it has unlabelled images; pass data.num_classes=null.")

    def records(self) -> VisionRecords:
        """The training split asked for."""
        return self._split(self.split)

    def held_out(self) -> VisionRecords:
        """The test split."""
        return self._split("test")

    def _split(self, split: str) -> VisionRecords:
        labelled = self.split == "train"
        return self._read(
            [{"split": split}],
            labels=lambda part: part.labels if labelled else np.zeros(len(part), np.int64),
            classes=lambda part: part.classes if labelled else (),
        )


@dataclass(kw_only=True)
class CelebA(VisionSource):
    """162,770 + 19,962 aligned faces of celebrities, 178x218; for research only. Source: Liu et al., arXiv 1411.7766.

    Args:
        root: Folder that holds celeba.
        download: Let torchvision fetch what is not there; it needs the package gdown.
        attribute: One of the 40 of list_attr_celeba.txt as two classes; None for no classes.
        crop: Left, top, right and bottom of what is kept of each image, in its pixels; None keeps all. The published
            64x64 models of DDIM (arXiv 2010.02502) take [25, 57, 153, 185].
    """

    attribute: str | None = None
    crop: Sequence[int] | None = None

    kind = "CelebA"
    lies = (
        "the folder celeba with img_align_celeba/, list_attr_celeba.txt, list_eval_partition.txt, "
        "identity_CelebA.txt, list_bbox_celeba.txt and list_landmarks_align_celeba.txt"
    )
    where = "They are to be had from mmlab.ie.cuhk.edu.hk/projects/CelebA.html."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            left, top, right, bottom = self.crop if len(self.crop) == 4 else (0, 0, 0, 0)
            if not (0 <= left < right <= 178 and 0 <= top < bottom <= 218):
                raise ValueError(
                    f"data.crop={list(self.crop)}: it must be left, top, right, bottom within 178x218 pixels."
                )

    def records(self) -> VisionRecords:
        """The training split."""
        return self._split("train")

    def held_out(self) -> VisionRecords:
        """The test split; the validation split is left out."""
        return self._split("test")

    def _split(self, split: str) -> VisionRecords:
        def labels(part: Any) -> Any:
            if self.attribute is None:
                return np.zeros(len(part), np.int64)
            names = [name for name in part.attr_names if name]
            if self.attribute not in names:
                raise ValueError(f"data.attribute={self.attribute}: unknown; allowed: {', '.join(names)}.")
            return part.attr[:, names.index(self.attribute)]

        names = () if self.attribute is None else (f"not {self.attribute}", self.attribute)
        left, top, right, bottom = self.crop or (0, 0, 178, 218)
        return self._read(
            [{"split": split}],
            labels=labels,
            classes=lambda part: names,
            paths=lambda part: [Path(part.root, part.base_folder, "img_align_celeba", name) for name in part.filename],
            crop=None if self.crop is None else (left, top, right, bottom),
        )


@dataclass(kw_only=True)
class _Photographs(VisionSource):
    """A data set of photographs of many sizes, in files that torchvision lists."""

    def _files(self, splits: Sequence[str]) -> VisionRecords:
        return self._read(
            # Pillow's own: what the image is, and whether it is too large, is judged before it is decoded.
            [{"split": split, "loader": opened} for split in splits],
            labels=lambda part: part._labels,
            classes=lambda part: part.classes,
            paths=lambda part: part._image_files,
        )


@dataclass(kw_only=True)
class Flowers102(_Photographs):
    """8,189 photographs of flowers, 102 classes. Source: Nilsback and Zisserman, 2008.

    Args:
        root: Folder that holds flowers-102.
        download: Let torchvision fetch what is not there.
        splits: Official ones to train on, of train (1,020), val (1,020) and test (6,149). Without test among them it
            is held out; else data.validation of the images is.
    """

    splits: Sequence[Literal["train", "val", "test"]] = ("train", "val")

    kind = "Flowers102"
    lies = "the folder flowers-102 with jpg/, imagelabels.mat and setid.mat"
    where = "They are to be had from www.robots.ox.ac.uk/~vgg/data/flowers/102."

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"data.splits={list(self.splits)}: it must name one or more of train, val, test, once.")

    def records(self) -> VisionRecords:
        """The splits asked for."""
        return self._files(self.splits)

    def held_out(self) -> VisionRecords | None:
        """The test split, unless it is trained on."""
        return None if "test" in self.splits else self._files(["test"])


@dataclass(kw_only=True)
class Food101(_Photographs):
    """75,750 + 25,250 photographs of dishes, 101 classes. Source: Bossard, Guillaumin and Van Gool, 2014."""

    kind = "Food101"
    lies = "the folder food-101 with images/ and meta/"
    where = "They are in food-101.tar.gz of data.vision.ee.ethz.ch/cvl/datasets_extra/food-101."

    def records(self) -> VisionRecords:
        """The training split."""
        return self._files(["train"])

    def held_out(self) -> VisionRecords:
        """The test split."""
        return self._files(["test"])
