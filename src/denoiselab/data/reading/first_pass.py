"""The first pass over all images of a set, before training: it finds damage, hashes images, and may decode them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from denoiselab import progress
from denoiselab.data.loading.processes import count, in_parts
from denoiselab.data.reading.decoding import BadImage, Decoder, WrongSize, read
from denoiselab.data.reading.depth import UnknownDepth
from denoiselab.data.reading.records import Records, version
from denoiselab.files import crc32_of, write_text

_log = logging.getLogger(__name__)

_CHUNK = 64  # images per task of the main process
_SHARE = 16  # images per task of another process; the program ends only after running tasks
_WORTH = 10.0  # seconds of remaining work from which other processes are started
_OFTEN = 30.0  # seconds between entries in the journal

_PIXELS, _HASHES, _BAD, _REPORT = "images.npy", "sha256.npy", "bad.json", "bad_images.txt"
_SUMS = "crc32.json"  # of these files; one process per machine compares them
_NOTES = "notes.jsonl"  # journal of an unfinished pass


class Prepared(NamedTuple):
    """The result of the first pass.

    Attributes:
        pixels: File of decoded images `(N, C, H, W)` uint8, black for bad ones; None if they are not kept.
        hashes: sha256 of each image's bytes in its original size, `(N, 32)` uint8; without a first pass a substitute.
        bad: Position of each image that cannot be read, to a sentence with the reason.
    """

    pixels: Path | None
    hashes: NDArray[np.uint8]
    bad: dict[int, str]


def prepare(
    records: Records, decoder: Decoder, cache: Path, workers: int | None, *, decoded: bool, skip: bool
) -> Prepared:
    """Read every image once, or take the result of an earlier pass from `cache`.

    Its folder is named by the hash of the records' identity, their files' version and the arguments. Processes with the
    same arguments wait for the first of them. A pass that was stopped or killed continues after its last journal
    entry. If a bad image has become readable, or the result is damaged, all images are read again.

    Args:
        records: The images.
        decoder: Converts them to bytes.
        cache: Folder of the results.
        workers: Processes; None: one per core.
        decoded: Keep the decoded images.
        skip: Report images that cannot be read; otherwise the first one is raised.

    Raises:
        ValueError: If an image cannot be read, or none can, or one has a size that `resize` refuses, or the disk is
            full.
        OSError: If the cache cannot be written.
    """
    folder = cache / f"data-{_key(records, decoder, decoded)[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        whole = _whole(folder, len(records), decoder.shape if decoded else None)
        if not whole or any(_readable(records, i, decoder) for i in _bad(folder)):
            if folder.exists():
                shutil.rmtree(folder)
            partial = cache / f".{folder.name}.partial"
            task = _Task(records, decoder, partial / _PIXELS if decoded else None)
            hashes, bad = _noted(task, partial)
            try:
                if not hashes:
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir()
                    if decoded:
                        _allocate(partial / _PIXELS, (len(records), *decoder.shape), cache)
                _read_all(task, hashes, bad, partial, workers, skip=skip)
                partial.rename(folder)
            except Exception:  # on KeyboardInterrupt and SystemExit the journal stays
                shutil.rmtree(partial, ignore_errors=True)
                raise
    bad = _bad(folder)
    if bad and not skip:
        raise ValueError(_refusal(next(iter(bad.values()))))
    if len(bad) == len(records):
        raise ValueError(
            f"data.bad_images=skip: none of the {len(records):,} images of {records.name} can be read; the first: "
            f"{next(iter(bad.values()))}."
        )
    if bad:
        few = len(bad), len(records), records.name, folder / _REPORT
        _log.warning("%d of %d images of %s cannot be read and are left out; they are listed in %s", *few)
    return Prepared(folder / _PIXELS if decoded else None, np.load(folder / _HASHES), bad)


def _key(records: Records, decoder: Decoder, decoded: bool) -> str:
    depends_on = {
        "format": 2,
        "identity": records.identity,
        "version": version(records.files),
        "shape": list(decoder.shape),
        "resize": decoder.resize,
        "max_pixels": decoder.max_pixels,
        **({} if decoder.bit_depth is None else {"bit_depth": decoder.bit_depth}),
        "decoded": decoded,
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _whole(folder: Path, n: int, shape: tuple[int, ...] | None) -> bool:
    """Whether the result for `n` images is complete."""
    try:
        _bad(folder)
        hashes = np.load(folder / _HASHES, mmap_mode="r")
        pixels = None if shape is None else np.load(folder / _PIXELS, mmap_mode="r")
    except (FileNotFoundError, EOFError, ValueError, AttributeError):
        return False
    long = hashes.shape == (n, 32) and (shape is None or pixels is None or pixels.shape == (n, *shape))
    return long and (os.environ.get("LOCAL_RANK", "0") != "0" or _summed(folder))


def _sums(folder: Path) -> dict[str, int]:
    return {name: crc32_of(folder / name) for name in (_PIXELS, _HASHES, _BAD) if (folder / name).is_file()}


def _summed(folder: Path) -> bool:
    """Whether the files have the checksums from the end of the pass."""
    try:
        return bool(json.loads((folder / _SUMS).read_text(encoding="utf-8")) == _sums(folder))
    except FileNotFoundError:  # written by an earlier version
        return True
    except ValueError:
        return False


def _bad(folder: Path) -> dict[int, str]:
    return {int(i): text for i, text in json.loads((folder / _BAD).read_text(encoding="utf-8")).items()}


def _readable(records: Records, i: int, decoder: Decoder) -> bool:
    try:
        read(records, i, decoder)
    except BadImage:
        return False
    except UnknownDepth:
        pass
    return True


def unread(records: Records) -> Prepared:
    """The result without a first pass: as hash of image i, block i of Philox numbers keyed by the records' identity."""
    key = int.from_bytes(hashlib.sha256(records.identity.encode()).digest()[:16], "big")
    words = np.random.Philox(key=key).random_raw(4 * len(records))
    return Prepared(None, words.astype("<u8").view(np.uint8).reshape(-1, 32), {})


def _allocate(path: Path, shape: tuple[int, ...], cache: Path) -> None:
    """Create an array of bytes with its disk space reserved: writing to a map on a full disk raises a signal."""
    size = math.prod(shape)
    free = shutil.disk_usage(cache).free
    try:
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ValueError(
                f"data.cache_dir={cache}: the decoded images need {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are "
                f"free ({os.strerror(error.errno)}); set another folder, or a lower data.memory_limit."
            ) from None
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # some file systems cannot reserve
            raise


@dataclass(frozen=True)
class _Task:
    """Reads parts of a set; each process has one."""

    records: Records
    decoder: Decoder
    pixels: Path | None

    def __call__(self, first: int, last: int) -> tuple[bytes, dict[int, str], str | None]:
        """Hashes and bad images from `first` to `last`, and an error for the first image of a wrong size, if any."""
        hashes, bad = b"", {}
        out = None if self.pixels is None else np.load(self.pixels, mmap_mode="r+")
        for i in range(first, last):
            digest = bytes(32)
            try:
                original = read(self.records, i, self.decoder)
                resized = self.decoder.resized(original)
                digest = hashlib.sha256(original.tobytes()).digest()
                if out is not None:
                    out[i] = resized
            except BadImage as error:
                bad[i] = str(error)
            except (WrongSize, UnknownDepth) as error:
                return hashes, bad, f"data: {self.records.describe(i)}: {error}."
            hashes += digest
        return hashes, bad, None


def _read_all(
    task: _Task, hashes: bytearray, bad: dict[int, str], folder: Path, workers: int | None, *, skip: bool
) -> None:
    """Read the images after those whose `hashes` are known, and write the result to `folder`."""
    n, done, last = len(task.records), len(hashes) // 32, time.monotonic()
    with progress.bar("reading images", n, done) as bar, contextlib.closing(_parts(task, done, workers)) as parts:
        for some, damaged, refusal in parts:
            bad |= damaged
            if bad and not skip:
                raise ValueError(_refusal(next(iter(bad.values()))))
            if refusal is not None:
                raise ValueError(refusal)
            hashes += some
            bar.update(len(some) // 32)
            if time.monotonic() - last > _OFTEN:
                _note(task, folder, hashes, bad, done)
                done, last = len(hashes) // 32, time.monotonic()
    np.save(folder / _HASHES, np.frombuffer(hashes, np.uint8).reshape(n, 32))
    write_text(folder / _REPORT, "".join(f"{text}\n" for text in bad.values()))
    write_text(folder / _BAD, json.dumps(bad))
    write_text(folder / _SUMS, json.dumps(_sums(folder)))
    (folder / _NOTES).unlink(missing_ok=True)


def _note(task: _Task, folder: Path, hashes: bytearray, bad: dict[int, str], first: int) -> None:
    """Append the results from image `first` on to the journal, for `_noted`."""
    if task.pixels is not None:
        with task.pixels.open("rb") as pixels:
            os.fsync(pixels.fileno())  # before the entry, in case the machine fails
    entry = json.dumps([first, hashes[32 * first :].hex(), {i: text for i, text in bad.items() if i >= first}])
    with (folder / _NOTES).open("a", encoding="utf-8") as notes:
        notes.write(f"\n{zlib.crc32(entry.encode())} {entry}")


def _noted(task: _Task, folder: Path) -> tuple[bytearray, dict[int, str]]:
    """Hashes of the first images, and the bad ones among them, from the journal of a stopped pass."""
    hashes, bad = bytearray(), dict[int, str]()
    with contextlib.suppress(FileNotFoundError), (folder / _NOTES).open(encoding="utf-8", errors="replace") as notes:
        for line in notes:
            with contextlib.suppress(ValueError):  # an entry cut by a kill, or damaged
                checksum, entry = line.rstrip("\n").split(" ", 1)
                first, some, damaged = json.loads(entry)
                if 32 * first == len(hashes) and int(checksum) == zlib.crc32(entry.encode()):
                    hashes += bytes.fromhex(some)
                    bad |= {int(i): text for i, text in damaged.items()}
    return (bytearray(), {}) if any(_readable(task.records, i, task.decoder) for i in bad) else (hashes, bad)


def _parts(task: _Task, first: int, workers: int | None) -> Generator[tuple[bytes, dict[int, str], str | None]]:
    """Results from `first` on, part by part in order; with several processes if much work remains."""
    n, start = len(task.records), time.perf_counter()
    many = count(workers)
    done = first
    while done < n:
        last = min(done + _CHUNK, n)
        yield task(done, last)
        done = last
        if many > 1 and (time.perf_counter() - start) / (done - first) * (n - done) > _WORTH:
            break
    if done < n:
        yield from in_parts(task, range(done, n, _SHARE), n, many)


def _refusal(text: str) -> str:
    return f"data.bad_images=fail: {text}; fix or delete it, or set data.bad_images=skip."
