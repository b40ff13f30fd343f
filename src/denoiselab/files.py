"""Atomic writing of files, checksums, and checks of archives before they are read.

A file that cannot be read or written is an `OSError`.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from denoiselab.cleaning import csv_cell

MANIFEST = "manifest.json"  # of a folder, whose other files it lists

_DIGEST = "checksum"  # key of a JSON object's own checksum


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb", former: Sequence[Path] = ()) -> Iterator[IO]:  # type: ignore[type-arg]
    """Open a temporary file in the folder of `path`, which replaces `path` at the end of the block, unless that fails.

    Args:
        path: The file.
        mode: As in `open`.
        former: Names in the same folder to which earlier versions move, the newest first; the last one is replaced. If
            the process is killed, `path` is complete, and each name holds a version at most one step older.

    Raises:
        OSError: If the disk is full or the folder cannot be written; `path` is unchanged.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    with replacing(path, former) as temporary, temporary.open(mode, encoding=encoding, newline=newline) as file:
        yield file


@contextlib.contextmanager
def replacing(path: Path, former: Sequence[Path] = ()) -> Iterator[Path]:
    """As `atomic`, but gives the path of an empty temporary file, for libraries that write files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    try:
        yield Path(name)
        with Path(name).open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp's files are private
        if former and path.exists():
            _shift(path, former)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _shift(path: Path, former: Sequence[Path]) -> None:
    """Move each of `former` to the next name, and make the first a hard link to `path`."""
    for older, newer in zip(reversed(former[1:]), reversed(former[:-1]), strict=True):
        if newer.exists():
            newer.replace(older)
    link = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        link.hardlink_to(path)
    except OSError:  # without hard links, `path` is missing for a moment
        path.replace(former[0])
        return
    link.replace(former[0])
    link.unlink(missing_ok=True)  # a rename onto another link of the same file does nothing


def put(new: Path, path: Path, former: Sequence[Path] = ()) -> None:
    """As `atomic` replaces a file, give the name `path` to a complete file or folder `new`, whatever has it before.

    A folder cannot replace another at once: for a moment `path` is missing, and the first of `former` is the newest. If
    there is none, that is `<stem>.0<suffix>`, which is removed in the end.
    """
    spare = path.with_suffix(f".0{path.suffix}")
    names = [path, *(former or [spare])]
    _drop(names[-1])
    for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
        if newer.exists():
            newer.rename(older)
    new.rename(path)
    for folder in {new.parent, path.parent}:
        _sync(folder)
    _drop(spare)


def _drop(path: Path) -> None:
    """Remove a file or a folder, which is never there in part."""
    if path.exists():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        path.rename(aside)
        remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder that is renamed to `out` at the end of the block, or removed if that fails.

    Raises:
        OSError: If `out` exists, or cannot be written.
    """
    if out.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o777 & ~umask)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_member(archive: zipfile.ZipFile, name: str, most: int) -> None:
    """Check the unpacked size of a member in the archive's directory, beyond which `zipfile` does not unpack.

    Raises:
        ValueError: If it is larger than `most` bytes.
    """
    size = archive.getinfo(name).file_size
    if size > most:
        raise ValueError(f"its {name} unpacks to {size:,} bytes, more than the {most:,} allowed")


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The content of a member.

    Raises:
        ValueError: If it unpacks to more than `most` bytes.
    """
    check_member(archive, name, most)
    with archive.open(name) as file:
        content = file.read(most + 1)  # not `archive.read`, which unpacks more than the directory declares
    if len(content) > most:
        raise ValueError(f"its {name} unpacks to more than the {most:,} bytes in its directory")
    return content


def packed_member(path: Path) -> str | None:
    """The first compressed member of a zip archive; None if there is none, as in archives of torch."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile:
        return None
    return next((member.filename for member in members if member.compress_type != zipfile.ZIP_STORED), None)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with atomic(path, "w") as file:
        file.write(text)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV atomically, their cells cleaned (`cleaning.csv_cell`).

    Args:
        path: The file.
        rows: Column to cell.
        columns: In order; None for those of all rows.
    """
    names = [*dict.fromkeys(key for row in rows for key in row)] if columns is None else columns
    with atomic(path, "w") as file:
        csv.writer(file).writerow([csv_cell(name) for name in names])
        for row in rows:
            append_csv(file, row, names)


def append_csv(file: IO[str], row: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Write a row to an open CSV file, its cells cleaned."""
    csv.writer(file).writerow([csv_cell(row.get(name, "")) for name in columns])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum atomically.

    Raises:
        ValueError: If a number is not finite.
    """
    content = json.loads(json.dumps(content, allow_nan=False))  # as `read_json` returns it
    write_text(path, json.dumps({**content, _DIGEST: _digest(content)}, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object without its checksum, which is verified if present.

    Raises:
        ValueError: If it is not a JSON object, or does not match its checksum; the message does not name the path.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("damaged, or not JSON") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if (digest := content.pop(_DIGEST, None)) is not None and digest != _digest(content):
        raise ValueError(f"changed since it was written; delete its entry '{_DIGEST}' to read it as it is")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def crc32_of(path: Path) -> int:
    """CRC-32 of a file, twice as fast as SHA-256."""
    total = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            total = zlib.crc32(piece, total)
    return total


def write_sum(path: Path) -> None:
    """Write the checksum of a file to `<name>.sha256`, in the format of sha256sum."""
    write_text(_sum_of(path), f"{sha256_of(path)}  {path.name}\n")


def drop_sum(path: Path) -> None:
    """Remove the checksum of `path`, before the file is written again."""
    _sum_of(path).unlink(missing_ok=True)


def matches_sum(path: Path) -> bool:
    """Whether a file matches its checksum; True without one."""
    try:
        stated = _sum_of(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return stated.split()[:1] == [sha256_of(path)]


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def zip_is_whole(path: Path) -> bool:
    """Whether a file is a zip archive as torch writes it, whose members match their CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch's reader gives a member that is marked as a folder uninitialised memory.
            marked = any(member.external_attr & 0x10 and not member.is_dir() for member in archive.infolist())
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            return not marked and not packed and archive.testzip() is None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL for a damaged offset
            raise
        return False
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError):
        return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its manifest, which holds those of its files."""
    path = path / MANIFEST if path.is_dir() else path
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
