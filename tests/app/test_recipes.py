"""Every file of conf/experiment: it composes and starts, has its published size, and its small form trains and samples.

A new recipe is found by its file, and its published size by conf/published.
"""

import json
import re
import sys

import pytest
from conftest import QUICK, ROOT

from denoiselab.app.building import check_run, checks
from denoiselab.app.commands import checking, train
from denoiselab.app.config import listing, overrides
from denoiselab.from_config import build

sys.path.append(str(ROOT / "docs"))
import recipes_table as table

PUBLISHED = table.papers()
PAGE = table.PAGE.read_text(encoding="utf-8")
SMALL = sorted(path.stem for path in table.EXPERIMENTS.glob("*_tiny.yaml"))

# Recipes without a small form: they are small themselves, and other tests train them.
ALREADY_SMALL = {"autoencoder_kl_digits", "classifier_digits", "tones", "toy_2d"}
# They need frozen encoders, of texts or images, whose weights are files; other tests make such.
NEED_WEIGHTS = {"autoencoder_rae_dinov2_b", "autoencoder_rae_emoji"}
NEED_WEIGHTS |= {"ldm_emoji_text", "ldm_txt2img_large", "sd_1", "sd_2"}
# Small forms that learn from another one.
TAUGHT = dict.fromkeys(("cd_cifar10_tiny", "progressive_cifar10_tiny"), "edm_ve_cifar10_tiny")
TAUGHT["cd_imagenet64_tiny"] = "edm_imagenet64_tiny"
SMALL_FAMILIES = ("checkerboard", "digits_")


@pytest.fixture(scope="module")
def composing():
    with table.composing():
        yield


@pytest.fixture
def built(monkeypatch):
    """The models that checks build, on no device; weights of frozen parts are not looked for."""
    found = []
    check_run._rehearse.cache_clear()
    monkeypatch.setattr(check_run, "build", lambda config: found.append(build(config)) or found[-1])
    monkeypatch.setattr("denoiselab.evaluation.features.fidelity.InceptionV3.check_weights", lambda self, layers: "")
    monkeypatch.setattr(checks, "check_first_stage", lambda model, objective: None)
    monkeypatch.setattr("denoiselab.frozen.TextEncoder._encoded", table.encoded)
    return found


@pytest.mark.parametrize("name", table.NAMES)
def test_a_recipe_starts_in_its_published_size(name, composing, built, tmp_path):
    given = [f"experiment={name}", *table.options(name, tmp_path)]
    config = checking.plain(overrides.composed("train", given), [])
    train.check(config)
    costs = table.costs(built[-1])
    if name in PUBLISHED and (recipe := PUBLISHED[name][1]).parameters is not None:
        count, within = recipe.number
        assert abs(costs.parameters - count) <= within, f"{costs.parameters:,}, published {recipe.parameters}"
    row = table.row(name, table.images_of(config), costs, PUBLISHED.get(name, (None, None))[1])
    found = next((line for line in PAGE.splitlines() if line.startswith(f"| `{name}` ")), "")
    assert found == row, "run: python docs/recipes_table.py"


def test_the_page_has_no_other_rows():
    assert PAGE.startswith(table.HEAD), "run: python docs/recipes_table.py"
    assert PAGE.endswith(table.FOOT), "run: python docs/recipes_table.py"
    rows = [line.split("`")[1] for line in PAGE.removeprefix(table.HEAD).removesuffix(table.FOOT).splitlines()]
    assert rows == table.NAMES


@pytest.mark.parametrize("name", table.NAMES)
def test_a_header_says_what_and_how(name, composing):
    what, command = table.header(name)
    assert what.endswith("."), "line 2 is a sentence"
    assert ". " not in what, "line 2 is one sentence"
    assert command.replace(" -m ", " ").removeprefix("python train.py ").split()[0] == f"experiment={name}", (
        "line 3 is the command"
    )
    assert listing._said("experiment", name)[0] == what.removesuffix("."), "--list has line 2"


def test_lines_of_recipes_fit_a_page():
    files = {path.name: path.read_text(encoding="utf-8").splitlines() for path in table.EXPERIMENTS.rglob("*.yaml")}
    assert [name for name, lines in files.items() if max(map(len, lines)) > 120] == []


@pytest.mark.parametrize("name", [name for name, (_, recipe) in PUBLISHED.items() if recipe.value])
def test_a_header_has_the_published_values(name):
    text = (table.EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8")
    missing = {*re.findall(r"\d+\.\d+", PUBLISHED[name][1].value)} - {*re.findall(r"\d+\.\d+", text)}
    assert not missing, f"conf/published has these values, the header of {name} not"


def test_what_is_published_is_of_a_recipe():
    assert {*PUBLISHED} <= {*table.NAMES}


def test_every_recipe_has_a_small_form():
    without = {name for name in table.NAMES if name.startswith(SMALL_FAMILIES)} | ALREADY_SMALL | NEED_WEIGHTS
    assert {*SMALL} == {f"{name}_tiny" for name in {*table.NAMES} - without}


def trained(name, folder, *more):
    """Train a small form and draw its samples; the folder of its run."""
    given = [f"experiment={name}", QUICK[-1], f"paths.run_dir={folder / name}", *more]
    config = checking.plain(overrides.composed("train", given), [])
    train.check(config)
    train.run(config)
    run, file = folder / name, "frontier.json"
    if name.startswith("classifier_"):
        file = "held_out_loss.json"
    elif name.startswith(("autoencoder_", "vq_")):
        file = "reconstruction.json"
    written = [json.loads(path.read_text()) for path in run.rglob(file)]
    assert written
    assert all(written)
    if file == "frontier.json":
        assert {record["error"] for records in written for record in records} == {None}
    return run


@pytest.mark.parametrize("name", [name for name in SMALL if name not in {*TAUGHT, *TAUGHT.values()}])
def test_a_small_form_trains_and_samples(name, composing, tmp_path):
    trained(name, tmp_path)


def test_small_forms_learn_from_others(composing, tmp_path):
    for name, teacher in TAUGHT.items():
        run = tmp_path / teacher
        trained(name, tmp_path, f"teacher={run if run.exists() else trained(teacher, tmp_path)}")
