"""The images that a task starts from: some of the run's data, or those in a folder of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from denoiselab.app.config.settings import Conditions
from denoiselab.conditioners import Clean
from denoiselab.data import DataSet, clean
from denoiselab.data.given import classes_of, image_folder
from denoiselab.data.loading.stream import IndexStream
from denoiselab.errors import BadInput
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.pretrained import Loaded

SPLITS = ("held_out", "train")

# Number of samples of a run's data where none is asked for.
_SOME = 64


@dataclass(frozen=True)
class Given:
    """Images that a task starts from; sample i of the task starts from image i mod their number.

    Args:
        data: That holds them.
        index: `(N,)` int64, their positions in it.
        names: Of their files, or their places in the run's data.
        labelled: Whether their classes are known.
    """

    data: DataSet
    index: Tensor
    names: Sequence[str]
    labelled: bool

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def stored(self, rows: Tensor) -> Tensor:
        """The images of samples `rows` `(B,)`, as stored, on the CPU."""
        return self.data.stored(self.index[rows.cpu() % len(self)])

    def clean(self, rows: Tensor, device: torch.device | None = None) -> Clean:
        """The images of samples `rows` `(B,)`, in the network's range, with their classes and captions."""
        return clean(self.data, self.index[rows.cpu() % len(self)], device)

    def names_of(self, rows: Tensor) -> list[str]:
        """The names of the images of samples `rows` `(B,)`."""
        return [self.names[i] for i in (rows.cpu() % len(self)).tolist()]

    def conditions(self, model: Model, rows: Tensor, asked: Conditions | None = None) -> Conditioning:
        """The conditions of samples `rows` `(B,)`: those that are asked for, in turn, else those of their images.

        Raises:
            BadInput: If none is asked for, and the images have no class or caption.
        """
        if asked is not None and (asked.classes, asked.prompts) != (None, None):
            return model.conditioner.sample(rows.to(model.device))
        if not self.labelled and "class_label" in model.conditioner.names:
            raise BadInput(
                "conditioner.classes=null: the images have no classes, which the model needs; give some, in turn, or "
                "put the images in folders named by the numbers of their classes."
            )
        if self.data.captions is None and {"tokens", "vector"} & model.conditioner.names:
            raise BadInput(
                "conditioner.prompts=null: the images have no captions, which the model needs; give some, in turn."
            )
        found = model.conditioner.given(self.clean(rows, model.device))
        try:
            model.conditioner.check(found)
        except ValueError as error:
            raise BadInput(f"task.images: the model does not take their conditions: {error}") from None
        return found

    def described(self, model: Model, rows: Tensor, asked: Conditions | None = None) -> list[str] | None:
        """The conditions of samples `rows` `(B,)` in words; None for no words."""
        if asked is not None and (asked.classes, asked.prompts) != (None, None):
            return model.conditioner.described(rows)
        if self.labelled and "class_label" in model.conditioner.names:
            return [str(label) for label in self.data.labels[self.index[rows % len(self)]].tolist()]
        return None


def given_images(loaded: Loaded, images: str, number: int | None = None, seed: int = 0) -> Given:
    """The images that `task.images` names: of the run's data some without repetition, chosen by the seed; or a folder.

    Args:
        loaded: The model, whose samples they are like.
        images: `held_out`, `train`, or a folder, of which all are taken, in the order of their names.
        number: Of samples of the task; None for 64 of the run's data.
        seed: Of the choice.

    Raises:
        BadInput: If there are none, or an image of the folder is not as the model's are.
    """
    if images not in SPLITS:
        found, names = image_folder(Path(images).expanduser(), loaded.model.codec.shape, "task.images")
        return Given(found, torch.arange(len(found)), names, labelled=classes_of(names) is not None)
    data = dict(zip(("train", "held_out"), loaded.data(), strict=True))[images]
    if not len(data):
        raise BadInput(f"task.images={images}: the run's data have no such part; give train, or a folder.")
    index = IndexStream(len(data), seed)[torch.arange(min(len(data), _SOME if number is None else number))]
    return Given(data, index, [f"{images} {i}" for i in index.tolist()], labelled=True)
