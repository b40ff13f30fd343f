"""A conditioner of texts made ready for the captions of the training data."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from denoiselab.app.runs.devices import is_leader
from denoiselab.conditioners import Combined, Conditioner, Text
from denoiselab.console import console
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.frozen import BytePairs
from denoiselab.model import Model
from denoiselab.training.checkpoint_files import CHECKPOINTS, home_of, saved

Config = Mapping[str, Any]

# The file of a run's tokenizer in its directory.
TOKENIZER = "tokenizer.json"

# Captions of which those are counted that are cut.
_COUNTED = 100_000


def prepare(config: dict[str, Any], model: Model, images: DataSet, held_out: DataSet, run: Path) -> dict[str, str]:
    """Learn the tokenizer, fill the store of features, and say how many captions are cut.

    Args:
        config: Of the run; its tokenizer becomes the file that the run keeps, with its hash.
        model: Whose conditioner is made ready.
        images: Training data.
        held_out: Held-out data.
        run: The run's directory, which need not exist.

    Returns:
        Name to content of the files that the run keeps of it.

    Raises:
        BadInput: If captions are missing or empty, or the tokenizer of a run that continues is.
    """
    files: dict[str, str] = {}
    nodes = copy.deepcopy(config["conditioner"])
    for conditioner, node in _texts(model.conditioner, nodes):
        if images.captions is None:
            raise BadInput(
                "conditioner=text: the data set has no captions; choose data with captions or another conditioner."
            )
        _check_written("data", images.captions)
        _check_written("held-out data", held_out.captions or ())
        encoder = conditioner.encoder
        if isinstance(tokenizer := getattr(encoder, "tokenizer", None), BytePairs):
            files[TOKENIZER] = _learned(tokenizer, images.captions, run)
            node["encoder"]["tokenizer"] |= {"path": TOKENIZER, "sha256": tokenizer.sha256}
            config["conditioner"] = nodes
        if (keep := getattr(encoder, "keep", None)) is not None:
            keep([*images.captions, *(held_out.captions or ()), ""])
        _tell_cut(encoder, images.captions)
    return files


def check_same_tokenizer(checkpoint: Path, theirs: Config, ours: Config) -> None:
    """Refuse to start from weights of a text encoder whose tokens have other numbers.

    Raises:
        BadInput: If a tokenizer in the configuration of the checkpoint is another one than here.
    """
    there, here = ([*_tokenizers(config["conditioner"])] for config in (theirs, ours))
    if there and here and there != here:
        raise BadInput(
            f"init_from={checkpoint}: its text encoder has another tokenizer, so its tokens mean other texts; give "
            f"conditioner.encoder.tokenizer.path={home_of(checkpoint) / TOKENIZER}."
        )


def _tokenizers(node: Any) -> Iterator[str]:
    """The hashes of the tokenizers in a node."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if name == "tokenizer" and isinstance(value, Mapping):
            yield str(value.get("sha256"))
        else:
            yield from _tokenizers(value)


def _texts(conditioner: Conditioner, node: dict[str, Any]) -> Iterator[tuple[Text, dict[str, Any]]]:
    """The conditioners of texts in one, with their nodes."""
    if isinstance(conditioner, Text):
        yield conditioner, node
    elif isinstance(conditioner, Combined):
        for name, part in conditioner.parts.items():
            yield from _texts(part, node["parts"][name])


def _check_written(what: str, captions: Sequence[str]) -> None:
    """Refuse empty captions, which mean no text."""
    empty = [number for number, text in enumerate(captions) if not text.strip()]
    if empty:
        raise BadInput(
            f"{what}: {len(empty):,} of {len(captions):,} captions are empty, the first of image {empty[0]}; write "
            "them, or leave these images out (conditioner.dropout replaces captions by the empty text at random)."
        )


def _learned(tokenizer: BytePairs, captions: Sequence[str], run: Path) -> str:
    """The content of the run's tokenizer: its own file, or the one that is named, or one learned on the captions."""
    own = run / TOKENIZER
    try:
        if own.is_file():
            tokenizer.read(own)
        elif saved(run / CHECKPOINTS):
            raise BadInput(
                f"{own}: is missing, and the run's weights are of its tokens; restore it, or start a new run."
            )
        elif tokenizer.content is None:
            tokenizer.learn(captions)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"conditioner.encoder.tokenizer.{error}") from None
    assert tokenizer.content is not None
    return tokenizer.content


def _tell_cut(encoder: Any, captions: Sequence[str]) -> None:
    """Say how many captions are longer than the encoder takes."""
    if not is_leader() or not hasattr(encoder, "cut"):
        return
    counted = [*islice(captions, _COUNTED)]
    if cut := encoder.cut(counted):
        first = "the first " if len(counted) < len(captions) else ""
        console(stderr=True).print(
            f"conditioner.encoder.length={encoder.length}: {cut:,} of {first}{len(counted):,} captions are longer, and "
            "what is beyond is not read."
        )
