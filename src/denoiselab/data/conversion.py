"""Conversion of any source of images to WebDataset shards, with checksums; a stopped conversion continues."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from denoiselab import progress
from denoiselab.data.loading.processes import count, in_parts
from denoiselab.data.reading.decoding import BadImage, Decoder, WrongSize, read
from denoiselab.data.reading.depth import UnknownDepth
from denoiselab.data.reading.records import Records, version
from denoiselab.data.sources.webdataset import FACTS
from denoiselab.files import read_json, replacing, sha256_of, write_json, write_text

SUMS = "SHA256SUMS"  # as sha256sum writes and checks it

_PLAN, _BAD = ".plan.json", "bad_images.txt"
_CHUNK = 16  # images per task; the program ends only after running tasks


class Converted(NamedTuple):
    """The result of a conversion.

    Attributes:
        n: Images in the shards.
        bad: Images that could not be read and were left out.
        mean: Of each channel, of values in [0, 1].
        std: As `mean`.
    """

    n: int
    bad: int
    mean: list[float]
    std: list[float]


class _Encoded(NamedTuple):
    """A PNG or the reason why there is none, and the sums of its channels' bytes and of their squares."""

    content: bytes
    refusal: str
    sums: tuple[list[int], list[int]]


def convert(
    records: Records,
    decoder: Decoder,
    out: Path,
    images_per_shard: int,
    workers: int | None = None,
    *,
    skip: bool = False,
) -> Converted:
    """Write all records as PNG, with classes and captions, to shards of `images_per_shard` records each.

    A shard gets its name when it is complete. A conversion that was stopped or killed continues with the first missing
    shard. The shards are equal, byte for byte, each time.

    Args:
        records: The images.
        decoder: Converts them to bytes.
        out: Folder of the shards, of SHA256SUMS, and of dataset.json with classes, counts, mean and std.
        images_per_shard: At least 1.
        workers: Processes that decode and encode; None: one per core.
        skip: List images that cannot be read in bad_images.txt; otherwise the first one is raised.

    Raises:
        ValueError: If `out` contains other files, or an image cannot be read.
        OSError: If the folder cannot be written.
    """
    plan = json.dumps(
        {
            "identity": records.identity,
            "version": version(records.files),
            "shape": list(decoder.shape),
            "resize": decoder.resize,
            **({} if decoder.bit_depth is None else {"bit_depth": decoder.bit_depth}),
            "images_per_shard": images_per_shard,
            "skip": skip,
        }
    )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / _PLAN).is_file()):
        raise ValueError(f"out={out}: it exists, and is not a conversion; choose a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        if (out / _PLAN).is_file():
            if (out / _PLAN).read_text("utf-8") != plan:
                raise ValueError(
                    f"out={out}: it contains a conversion of other images or with other options; choose a new folder."
                )
        else:
            write_text(out / _PLAN, plan)
        for half in out.glob(".*.tmp"):
            half.unlink()
        shards = _write_all(records, decoder, out, images_per_shard, workers, skip=skip)
        return _finish(records, decoder, out, shards)


def _write_all(
    records: Records, decoder: Decoder, out: Path, images_per_shard: int, workers: int | None, *, skip: bool
) -> list[dict[str, Any]]:
    """Facts on each shard; missing shards are written."""
    total = len(records)
    digits = max(6, len(str(total // images_per_shard)))
    names = [f"{number:0{digits}d}.tar" for number in range(-(-total // images_per_shard))]
    known = [known_shard(out / name) for name in names]
    first = next((number for number, facts in enumerate(known) if facts is None), len(names))
    shards = [facts for facts in known[:first] if facts is not None]
    encode = _Encode(records, decoder)
    done = min(first * images_per_shard, total)
    with (
        progress.bar("converting", total, done) as bar,
        contextlib.closing(_encoded(encode, done, workers)) as images,
    ):
        for number in range(first, len(names)):
            rows = range(number * images_per_shard, min((number + 1) * images_per_shard, total))
            facts = _write(out / names[number], records, rows, images, bar.update, skip=skip)
            write_json(out / f".{names[number]}.json", facts)
            shards.append(facts)
    return shards


def known_shard(path: Path) -> dict[str, Any] | None:
    """The facts noted on a shard, if its checksum matches."""
    try:
        facts = read_json(path.with_name(f".{path.name}.json"))
        return facts if sha256_of(path) == facts["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None


def _write(
    path: Path, records: Records, rows: range, images: Iterator[_Encoded], advance: Any, *, skip: bool
) -> dict[str, Any]:
    bad, sums = [], np.zeros((2, 0), np.int64)
    labelled = bool(records.classes) or int(records.labels.max()) > 0
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for row in rows:
            image = next(images)
            advance(1)
            if image.refusal:
                if not skip:
                    raise ValueError(f"{image.refusal} (data.bad_images=skip leaves such images out)")
                bad.append(image.refusal)
                continue
            key = f"{row:09d}"
            _add(archive, f"{key}.png", image.content)
            if labelled:
                _add(archive, f"{key}.cls", str(int(records.labels[row])).encode())
            if records.captions is not None:
                _add(archive, f"{key}.txt", records.captions[row].encode())
            sums = np.array(image.sums, np.int64) + (sums if sums.size else 0)
    return {"name": path.name, "n": len(rows) - len(bad), "sha256": sha256_of(path), "sums": sums.tolist(), "bad": bad}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without time and owner, for equal bytes each time
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _finish(records: Records, decoder: Decoder, out: Path, shards: list[dict[str, Any]]) -> Converted:
    n, bad = sum(shard["n"] for shard in shards), [text for shard in shards for text in shard["bad"]]
    if not n:
        raise ValueError(f"out={out}: none of the {len(records):,} images of {records.name} can be read.")
    channels, height, width = decoder.shape
    total = np.sum([np.array(shard["sums"], np.int64) for shard in shards if shard["n"]], axis=0)
    mean, square = total.astype(np.float64) / (n * height * width) / np.array([[255.0], [255.0**2]])
    std = np.sqrt(np.maximum(square - mean**2, 0))
    facts = {
        "format": 1,
        "n": n,
        "bad": len(bad),
        "shape": [channels, height, width],
        "resize": decoder.resize,
        "classes": list(records.classes),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "source_identity": records.identity,
        "shards": [{key: shard[key] for key in ("name", "n", "sha256")} for shard in shards],
    }
    if bad:
        write_text(out / _BAD, "".join(f"{text}\n" for text in bad))
    write_text(out / SUMS, "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in shards))
    write_text(out / FACTS, json.dumps(facts, indent=1))
    return Converted(n, len(bad), mean.tolist(), std.tolist())


@dataclass(frozen=True)
class _Encode:
    """Encodes records as PNG; each process has one."""

    records: Records
    decoder: Decoder

    def __call__(self, first: int, last: int) -> list[_Encoded]:
        return [self._one(row) for row in range(first, last)]

    def _one(self, row: int) -> _Encoded:
        try:
            pixels = self.decoder.resized(read(self.records, row, self.decoder))
        except UnknownDepth as error:
            raise ValueError(f"data: {self.records.describe(row)}: {error}.") from None
        except BadImage as error:
            return _Encoded(b"", str(error), ([], []))
        except WrongSize as error:
            return _Encoded(b"", f"{self.records.describe(row)}: {error}.", ([], []))
        flat = pixels.reshape(len(pixels), -1).astype(np.int64)
        return _Encoded(_png(pixels), "", (flat.sum(1).tolist(), np.square(flat).sum(1).tolist()))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG", compress_level=6)
    return file.getvalue()


def _encoded(encode: _Encode, done: int, workers: int | None) -> Generator[_Encoded]:
    """The encoded images from `done` on, in order."""
    total = len(encode.records)
    many = count(workers)
    firsts = range(done, total, _CHUNK)
    if many < 2 or len(firsts) < 2:
        for first in firsts:
            yield from encode(first, min(first + _CHUNK, total))
        return
    for part in in_parts(encode, firsts, total, many):
        yield from part
