"""`python -m denoiselab.convert`, as a user asks for it."""

import signal

import pytest
from PIL import Image

from denoiselab.data import conversion

PROGRAM = "src/denoiselab/convert.py"


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 0)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_a_folder_becomes_shards_and_their_reference(photos, tmp_path, invoke):
    out = tmp_path / "of 2, n=3"
    command = (
        *("data=image_folder", f"data.root={photos}", "data.shape=[3,8,8]", "data.resize=center_crop"),
        *("data.num_classes=2", f"out={out}", f"paths.log_dir={tmp_path}"),
        *("images_per_shard=3", "data.validation=0", "references=true", "evaluation.extractor.epochs=1"),
    )
    result = invoke(PROGRAM, *command)
    assert result.code == 0, result.err
    assert f"4 images; mean 0.0059, 0.0000, 0.0000, std 0.0044, 0.0000, 0.0000 of [0, 1]: {out}/train" in result.out
    assert f"data=webdataset 'data.root=\"{out}/train\"' data.shape=[3,8,8]" in result.out
    assert "classifier of 4 images of image_folder (train)" in result.out
    assert [path.name for path in sorted((out / "train").glob("*.tar"))] == ["000000.tar", "000001.tar"]
    assert invoke(PROGRAM, *command).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["out=x", "images_per_shard=0"], ["images_per_shard=0", "at least 1"]),
        (["data=two_moons"], ["out: is not given"]),
        (["out=x", "data=swiss_roll"], ["data=swiss_roll", "only images in files"]),
        (["out=x", "data=mnist", "data.root=/nowhere"], ["data.root=/nowhere", "MNIST needs the files"]),
        (["out=x", "data=fashion_mnist", "data.resize=random_crop"], ["data.resize=random_crop", "center_crop"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused(arguments, says, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    result = invoke(PROGRAM, *arguments)
    assert result.code == 2, result.err
    for text in says:
        assert text in result.last
    assert not (tmp_path / "x" / "train").exists()


def test_a_folder_with_other_things_is_refused(photos, tmp_path, invoke):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    for out in (tmp_path / "out", tmp_path / "out" / "thesis.tex"):
        result = invoke(PROGRAM, "data=image_folder", f"data.root={photos}", "data.shape=[3,10,12]", f"out={out}")
        assert result.code == 2
        assert f"out={out}: it is there already, and not of a conversion" in result.last
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_sigterm_is_a_sentence_and_leaves_nothing_half_written(photos, tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(conversion, "read", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    result = invoke(
        PROGRAM, "data=image_folder", f"data.root={photos}", "data.shape=[3,8,8]", f"out={tmp_path / 'out'}"
    )
    assert (result.code, result.last) == (143, "convert.py: stopped by SIGTERM.")
    assert not list((tmp_path / "out").rglob("*.t*r"))
    assert not list((tmp_path / "out").rglob(".*.tmp"))
    assert signal.getsignal(signal.SIGTERM) == before
