"""The models in `src/denoiselab/models/`: their files, their cards, their samples, and the page that lists them."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
from conftest import ROOT

import denoiselab
from denoiselab.app.tasks.release import card
from denoiselab.files import MANIFEST, read_json, sha256_of
from denoiselab.released import CARD, FOLDER, WEIGHTS, shipped

SHIPPED = shipped()
WHOLE = [name for name, path in SHIPPED.items() if (path / WEIGHTS).is_file()]
PAGE = ROOT / "docs" / "pages" / "models.md"


def test_they_are_small_and_complete():
    assert len(WHOLE) >= 3
    assert all(path.parent == FOLDER for path in SHIPPED.values())
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 15e6  # each is in the history for ever


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_says_what_the_files_are(name):
    path = SHIPPED[name]
    text = (path / CARD).read_text(encoding="utf-8")
    if name in WHOLE:
        manifest = read_json(path / MANIFEST)
        assert text.startswith(card(name, path, manifest))  # facts and scores; the rest is written by hand
        assert manifest["scores"]
        assert all(row["n"] >= 256 and row["reference_sha256"] and row["error"] for row in manifest["scores"])
    for heading in ("## Data", "## Licence", "## What it cannot do"):
        assert heading in text


@pytest.mark.parametrize("name", WHOLE)
def test_samples_are_those_that_were_stored(name):
    """At most one level in at most 1 % of the pixels on another processor, as between two versions of torch."""
    with np.load(SHIPPED[name] / "samples.npz") as stored:
        sampler, steps, seed, images = (stored[key] for key in ("sampler", "steps", "seed", "images"))
    model = denoiselab.load(f"model:{name}")
    ours = model.sample(denoiselab.sampler(str(sampler), steps=int(steps)), len(images), seed=int(seed)).numpy()
    differences = np.abs(ours.astype(int) - images)
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 0.01


def test_the_program_takes_them_by_name(invoke, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    words = ["num_samples=4", "sampler=ddim", "sampler.steps=2", f"log_dir={tmp_path}", "format=npz"]
    result = invoke("sample.py", "ckpt=model:digits_label", *words)
    assert result.code == 0, result.err
    (run,) = (tmp_path / "imported").glob("digits_label-*")
    assert len([*(run / "samples").iterdir()]) == 1
    again = invoke("sample.py", "ckpt=model:digits_label", *words, "seed=1")
    assert again.code == 0, again.err
    assert [*(tmp_path / "imported").iterdir()] == [run]
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")} == before
    result = invoke("sample.py", "ckpt=model:digit", *words)
    assert (result.code, "did you mean 'digits'?" in result.last) == (2, True)


def test_a_model_without_weights_says_how_it_is_made(invoke, tmp_path):
    others = [name for name in SHIPPED if name not in WHOLE]
    for name in others:
        result = invoke("sample.py", f"ckpt=model:{name}", f"log_dir={tmp_path}")
        assert result.code == 2
        assert re.search(rf"{name}: its model.safetensors is missing; .*: python train.py experiment=", result.last)
        assert not [*tmp_path.iterdir()]


def test_the_page_lists_them():
    text = PAGE.read_text(encoding="utf-8")
    for name, path in SHIPPED.items():
        with nullcontext() if name in WHOLE else pytest.raises(FileNotFoundError):
            assert f"`{sha256_of(path / WEIGHTS)[:12]}`" in text
        assert f"`model:{name}`" in text


@pytest.mark.benchmark
@pytest.mark.parametrize("name", WHOLE)
def test_scores_of_the_card_are_measured_again(name, invoke, tmp_path):
    """The first one of its frechet distances, within three standard errors of each."""
    rows = read_json(SHIPPED[name] / MANIFEST)["scores"]
    row = next(row for row in rows if row["metric"] == "fd_classifier")
    result = invoke(
        "sample.py", f"ckpt=model:{name}", "task=frontier", f"task.samplers=[{row['sampler']}]",
        f"task.nfe=[{row['nfe']}]", "task.extra_nfe={}", f"task.num_samples={row['n']}", f"log_dir={tmp_path}",
        "task.guidance=[1]",
    )  # fmt: skip
    assert result.code == 0, result.err
    (table,) = tmp_path.rglob("frontier.json")
    (cell,) = __import__("json").loads(table.read_text())
    assert cell["score"] == pytest.approx(row["value"], abs=3 * row["error"])
