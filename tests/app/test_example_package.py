"""The example package of a laboratory: installed from its folder, it is used as shipped parts are, and tests itself."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import QUICK, ROOT

EXAMPLE = ROOT / "docs" / "example_package"
PARTS = {
    "sampler": "exponential_heun",
    "schedule": "power_of_time",
    "network": "gated_conv",
    "data": "gratings",
    "metric": "mean_distance",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip installed a copy of the package: building one leaves files in it."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    isolated = [] if importlib.util.find_spec("setuptools") is None else ["--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *isolated, "--target", str(folder / "site")]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def environment(site):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_a_part_is_a_class_and_a_yaml():
    for group, name in PARTS.items():
        (line,) = [
            line for line in (EXAMPLE / "src/labparts/conf" / group / f"{name}.yaml").read_text().splitlines()
            if line.startswith("_target_")
        ]  # fmt: skip
        assert line.startswith(f"_target_: labparts.{group}.")
        assert not (ROOT / "conf" / group / f"{name}.yaml").exists()


@pytest.mark.slow
def test_all_parts_train_score_and_sample(site, environment, run, tmp_path):
    quick = [option for option in QUICK if not option.startswith(("network.", "evaluation.samplers", "debug"))]
    folder = tmp_path / "run"
    done = run(
        "train.py",
        *quick,
        *(f"{group}={PARTS[group]}" for group in ("data", "network", "schedule")),
        *(
            "data.n=400",
            "network.width=8",
            "max_images=256",
            "logger=none",
            "evaluation.nfe=[6]",
            "evaluation.num_samples=64",
        ),
        *("evaluation.samplers=[exponential_heun,ddim]", "evaluation.metrics=[mean_distance,frechet]"),
        f"paths.run_dir={folder}",
        env=environment,
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    rows = list(csv.DictReader((folder / "frontier.csv").open()))
    assert {row["sampler"] for row in rows} == {"exponential_heun", "ddim"}
    assert all("mean_distance" in row["metric"] for row in rows if row.get("metric"))

    asked = [f"ckpt={folder}", "sampler=exponential_heun", "sampler.steps=3", "num_samples=4", "format=npz"]
    done = run("sample.py", *asked, f"out={tmp_path / 'samples'}", env=environment, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "samples" / "samples.npz").is_file()

    asked = [f"ckpt={folder}", "task=frontier", "task.samplers=[exponential_heun@karras]", "task.nfe=[8]"]
    done = run(
        "sample.py",
        *asked,
        "task.num_samples=64",
        "task.metrics=[mean_distance]",
        env=environment,
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert "mean_distance" in done.out + json.dumps([*csv.DictReader((folder / "frontier.csv").open())])

    if importlib.util.find_spec("labparts") is None:  # a developer may have installed it
        checkpoint = next(option for option in asked if option.startswith("ckpt="))
        done = run("sample.py", checkpoint, "num_samples=2", cwd=tmp_path)
        assert done.code == 2
        assert "labparts is not an allowed package; if you trust its code, set DENOISELAB_ALLOW=labparts" in done.last


def test_the_tests_of_the_package_pass(site, environment):
    source = site.parent / "source"
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(pytest_, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
