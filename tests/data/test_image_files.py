"""A file is a picture of the formats that are read, whatever it is called."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from denoiselab.data import ImageFolder, ImageZip, WebDataset
from denoiselab.data.reading.image_files import open_image
from denoiselab.evaluation.report.page import _embedded
from denoiselab.evaluation.report.tables import read_strip

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """What a program in the place of Ghostscript writes when it is called."""
    path, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {path}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return path


def in_folder(path):
    (path / "set").mkdir()
    (path / "set" / "0.png").write_bytes(POSTSCRIPT)
    return ImageFolder, path / "set"


def in_zip(path):
    with zipfile.ZipFile(path / "set.zip", "w") as archive:
        archive.writestr("0.png", POSTSCRIPT)
    return ImageZip, path / "set.zip"


def in_shard(path):
    with tarfile.open(path / "set.tar", "w") as archive:
        info = tarfile.TarInfo("0.png")
        info.size = len(POSTSCRIPT)
        archive.addfile(info, io.BytesIO(POSTSCRIPT))
    return WebDataset, path / "set.tar"


@pytest.mark.parametrize("write", [in_folder, in_zip, in_shard])
def test_postscript_is_no_picture(write, marker, tmp_path):
    kind, root = write(tmp_path)
    options = {"shape": (1, 8, 8), "num_classes": None, "validation": 0.0, "workers": 0, "cache_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=r"0\.png: not an image, or of an unknown format"):
        kind(name="it", root=str(root), **options).load()
    assert not marker.exists()
    with pytest.raises(OSError, match=r"\w"):  # what it wrote is no picture, but it was called
        Image.open(io.BytesIO(POSTSCRIPT)).load()
    assert marker.exists()


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "webp", "ppm", "tga", "tiff"])
def test_formats_of_pictures_are_read(kind, tmp_path):
    path = tmp_path / f"it.{kind}"
    Image.new("RGB", (8, 8), "red").save(path)
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
        assert open_image(source).convert("RGB").getpixel((3, 3))[0] > 200


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "it.png")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        open_image(tmp_path / "it.png")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        open_image(str(Path("/dev/zero")))


def test_nor_is_it_in_a_run_of_others(marker, tmp_path):
    (tmp_path / "ddim.png").write_bytes(POSTSCRIPT)
    with pytest.raises(UnidentifiedImageError):
        read_strip(tmp_path / "ddim.png")
    with pytest.raises(UnidentifiedImageError):
        _embedded(tmp_path / "ddim.png", (1, 8, 8), 8)
    assert not marker.exists()
