"""Runs as release folders: written, read again by every program, refused where a file is missing or another."""

import json
import re
import shutil

import pytest
import torch
from conftest import QUICK
from safetensors.torch import load_file

import denoiselab
from denoiselab.files import MANIFEST, read_json
from denoiselab.pretrained import read
from denoiselab.released import CARD, WEIGHTS


@pytest.fixture(scope="module")
def release(finished, tmp_path_factory):
    """The folder of a release of a quick run, which has its scores; tests copy it before they change it."""
    from denoiselab.app.tasks import release
    from denoiselab.app.tasks.task import Opened
    from denoiselab.files import sha256_of
    from denoiselab.pretrained import read_weights

    file, folder = finished / "checkpoints" / "last.ckpt", tmp_path_factory.mktemp("releases") / "small"
    folder.mkdir()
    release.write(folder, Opened(file, sha256_of(file), *read_weights(file, None), torch.device("cpu")), "float32")
    return folder


def test_the_command_writes_what_the_run_is(finished, release, invoke, tmp_path):
    out = tmp_path / "out"
    result = invoke("sample.py", f"ckpt={finished}", "task=export", "task.format=release", f"out={out}")
    assert result.code == 0, result.err
    assert "parameters in float32, weights ema" in result.out
    assert {path.name for path in out.iterdir()} == {WEIGHTS, CARD, MANIFEST}
    assert all((out / name).read_bytes() == (release / name).read_bytes() for name in (WEIGHTS, CARD))
    loaded, run = read(out), read(finished / "checkpoints" / "last.ckpt")
    assert loaded.names.stored == ["ema", "raw"]
    assert loaded.images_seen == run.images_seen
    assert all(torch.equal(value, run.averages["ema"][name]) for name, value in loaded.averages["ema"].items())
    sampler = denoiselab.sampler("dpmpp_2m", steps=4)
    assert torch.equal(denoiselab.load(out).sample(sampler, 5), denoiselab.load(finished).sample(sampler, 5))


def test_a_manifest_names_the_command_and_the_scores_of_these_weights(finished, release):
    manifest = read_json(release / MANIFEST)
    assert manifest["make"].startswith("python train.py debug=fast_dev_run network.channels=8")
    assert "paths." not in manifest["make"]
    records = json.loads((finished / "frontier.json").read_text())
    found = {(row["sampler"], row["nfe"]): row for row in manifest["scores"] if row["metric"] == "fd_classifier"}
    assert len(found) == len(records) > 0
    for record in records:
        row = found[record["sampler"], record["nfe"]]
        assert (row["value"], row["error"], row["n"]) == (record["score"], record["standard_error"], record["n"])
    assert str(finished.parent) not in (release / MANIFEST).read_text()


def test_half_precision_halves_the_file_and_is_stable(finished, release, invoke, tmp_path):
    words = ["task=export", "task.format=release", "task.dtype=float16"]
    assert invoke("sample.py", f"ckpt={finished}", *words, f"out={tmp_path / 'a'}").code == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    result = invoke("sample.py", f"ckpt={tmp_path / 'b'}", *words, f"out={tmp_path / 'c'}", f"log_dir={tmp_path}")
    assert result.code == 0, result.err
    half = (tmp_path / "a" / WEIGHTS).read_bytes()
    assert (tmp_path / "c" / WEIGHTS).read_bytes() == half
    assert len(half) < 0.6 * (release / WEIGHTS).stat().st_size
    assert {value.dtype for value in load_file(tmp_path / "a" / WEIGHTS).values()} == {torch.float16}
    assert "None was measured with these weights" in (tmp_path / "a" / CARD).read_text()  # they are rounded
    assert read_json(tmp_path / "c" / MANIFEST)["make"] == read_json(release / MANIFEST)["make"]
    assert {*(path.name for path in (tmp_path / "b").iterdir())} == {WEIGHTS, CARD, MANIFEST}
    result = invoke("sample.py", f"ckpt={finished}", "task=export", "task.dtype=float16")
    assert (result.code, result.last) == (
        2, "sample.py: task.dtype=float16: it has no effect without task.format=release."
    )  # fmt: skip


def test_a_run_starts_from_a_release(release, invoke, tmp_path):
    words = [*QUICK, "logger=none", f"init_from={release}", "init_weights=ema", f"paths.log_dir={tmp_path}"]
    result = invoke("train.py", *words, "init_optimizer=true")
    assert result.code == 2
    assert "holds no state of an optimizer" in result.last
    result = invoke("train.py", *words, "init_from=model:digits")
    assert re.search(r"init_from=.*models/digits: belongs to another network", result.last)
    result = invoke("train.py", *words, "teacher=model:digit")
    assert "teacher=model:digit: unknown; did you mean 'digits'?" in result.last
    result = invoke("train.py", *words, "optimizer.lr=1e-9", f"paths.run_dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    initial = json.loads((tmp_path / "run" / "run.json").read_text())["initial"]
    assert (initial["checkpoint"], initial["weights"]) == (str(release.resolve()), "ema")
    stored = load_file(release / WEIGHTS)
    for name, value in denoiselab.load(tmp_path / "run", "raw").denoiser.named_parameters():
        assert torch.allclose(value, stored[name], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda path: (path / WEIGHTS).unlink(),
            "its model.safetensors is missing; train the model anew with: python t",
        ),
        (
            lambda path: (path / WEIGHTS).write_bytes(b"0"),
            "its model.safetensors is damaged; train the model anew with",
        ),
        (lambda path: (path / MANIFEST).write_text("{"), "its manifest.json is damaged, or not JSON."),
        (lambda path: _edit(path, files={}), "its model.safetensors is damaged"),
        (lambda path: _edit(path, files={"../up": "0"}), "its model.safetensors is damaged"),
        (lambda path: _edit(path, parameters=["none"]), "its manifest.json is malformed."),
        (lambda path: _edit(path, parameters=[{}]), "damaged or truncated, or not a checkpoint."),
        (lambda path: _edit(path, make=None), "its manifest.json is malformed."),
        (lambda path: _edit(path, images_seen=-1), "its 'images_seen' is missing or malformed."),
        (lambda path: _edit(path, config={"name": "x"}), "its configuration is incomplete or malformed"),
    ],
)
def test_what_is_not_as_written_is_refused(release, tmp_path, change, sentence):
    path = shutil.copytree(release, tmp_path / "copy")
    change(path)
    with pytest.raises(ValueError, match=r"^ckpt=.*copy: ") as error:
        denoiselab.load(path)
    assert sentence in str(error.value)


def _edit(path, **changes):
    content = {**read_json(path / MANIFEST), **changes}
    (path / MANIFEST).write_text(json.dumps(content))
