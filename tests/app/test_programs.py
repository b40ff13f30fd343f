"""The command line as users meet it."""

import csv
import importlib.util
import itertools
import re
import warnings

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT
from omegaconf import OmegaConf
from PIL import Image
from published.mnist import write_mnist

from denoiselab import parameterizations
from denoiselab.app.sweeps.records import Sweep
from denoiselab.app.sweeps.summary import write_table
from denoiselab.noise import Noise
from denoiselab.pretrained import read_weights as load
from denoiselab.samplers import DDIM, Ancestral
from denoiselab.samplers.spacing import UniformTime


def names(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def test_the_configuration_prints(run):
    result = run("train.py", "--cfg", "job", "--resolve")
    assert result.code == 0
    assert "_target_: denoiselab.networks.DDPMUNet" in result.out
    assert "${" not in result.out


# Others are trained in test_recipes.py, test_toy.py, test_trained_classifiers.py, test_first_stages.py and
# test_text_runs.py.
OWN = re.compile("toy_2d|tones|classifier|autoencoder|vq|ldm|sd_|checkerboard|digits_(progressive|mean_flow)")
SMALL = {name for name in names("experiment") if name.endswith("_tiny")}
EXPERIMENTS = [name for name in names("experiment") if not OWN.match(name) and not SMALL & {name, f"{name}_tiny"}]


@pytest.mark.parametrize(
    "arguments",
    [[f"experiment={name}"] for name in EXPERIMENTS]
    + [[f"{group}={name}"] for group in ("parameterization", "lr_schedule", "ema", "logger") for name in names(group)]
    + [["trainer.accumulate_grad_batches=2"], ["trainer=cpu"], ["evaluation.weights=raw"]],
    ids=" ".join,
)
def test_every_choice_trains_and_samples(arguments, tmp_path, invoke):
    if {"lr_schedule=warmup_cosine", "lr_schedule=warmup_linear", "experiment=digits_ect"} & {*arguments}:
        arguments = [*arguments, "lr_schedule.images=32"]
    if "experiment=digits_ect" in arguments:
        arguments = [*arguments, "init_weights=raw"]
    if "parameterization=previous_mean" in arguments:
        arguments = [*arguments, "schedule=ddpm"]
    if "experiment=fashion_mnist" in arguments:
        write_mnist(tmp_path / "data", train=80, test=40)
        arguments = [*arguments, f"data.root={tmp_path}/data", "data.workers=0", "evaluation.num_samples=16"]
    quick = QUICK
    if "experiment=tones" in arguments:
        quick = [argument for argument in QUICK if "extractor" not in argument]
        arguments = [*arguments, "data.size=64", "data.held_out=32"]
    result = invoke("train.py", *quick, "evaluation.nfe=[2]", f"paths.log_dir={tmp_path}", *arguments)
    if "logger=mlflow" in arguments and importlib.util.find_spec("mlflow") is None:
        assert (result.code, result.last) == (
            2,
            "train.py: logger.mlflow._target_=MLflow: needs the package mlflow; pip install mlflow.",
        )
        return
    assert result.code == 0, result.err
    (run_dir,) = (path.parent for path in tmp_path.rglob("config.yaml") if "wandb" not in path.parts)
    result = invoke("sample.py", f"ckpt={run_dir}", "num_samples=3", "sampler.steps=2")
    assert result.code == 0, result.err
    assert "3 samples, 2 network calls each" in result.out


@pytest.mark.parametrize("name", names("debug"))
def test_every_debug_choice_runs(name, tmp_path, invoke):
    arguments = [a for a in QUICK if not a.startswith("debug=")]
    result = invoke(
        "train.py", f"debug={name}", *arguments, "logger=none", "max_images=256", "batch_size=32",
        "evaluation.nfe=[2]", "evaluation.num_samples=8", f"paths.log_dir={tmp_path}",
    )  # fmt: skip
    assert result.code == 0, result.err
    reports = [path.read_text() for path in tmp_path.rglob("fit-profile.txt")]
    assert ["optimizer_step" in text for text in reports] == [True] * (name == "profiler")
    assert ("profile: " in result.out) == (name == "profiler")


OPTIONS = {
    "spacing=listed": ["sampler.spacing.values=[50,5,0.5]"],
    "spacing=from_file": ["sampler.spacing.path=knots.json"],
    "spacing=truncated": ["sampler.spacing.path=start.pt"],
    "sampler=annealed_langevin": ["sampler.repeats=2"],
    "sampler=ncsn_langevin": ["sampler.repeats=2"],
    **{
        f"sampler={name}": ["+sampler.rtol=0.5", "+sampler.atol=0.5"]
        for name in ("dpm_solver_12", "dpm_solver_23", "dpmpp_12", "dpmpp_23")
    },
    "sampler=ode_adaptive": ["sampler.rtol=0.5", "sampler.atol=0.5"],
}


CHOICES = [f"{group}={name}" for group in ("sampler", "spacing") for name in names(group)]


@pytest.mark.parametrize("choice", [one for one in CHOICES if one != "sampler=fitted"])  # which test_fit_solver runs
def test_every_sampler_and_every_spacing(choice, finished, tmp_path, invoke):
    """What any sampler does on any grid is tried in tests/samplers."""
    options = [option.replace(".path=", f".path={tmp_path}/") for option in OPTIONS.get(choice, ())]
    (tmp_path / "knots.json").write_text('{"lam": [-4.0, 0.0, 4.0]}')
    if choice == "spacing=truncated":
        result = invoke("sample.py", f"ckpt={finished}", "task=truncate", "lam=-0.5", f"out={tmp_path / 'start.pt'}")
        assert f"use: spacing@sampler.spacing=truncated sampler.spacing.path={tmp_path / 'start.pt'}" in result.out
        assert torch.load(tmp_path / "start.pt")["checkpoint"].startswith(str(finished.resolve()))
    group = choice.replace("spacing=", "spacing@sampler.spacing=")
    steps = [] if any("rtol" in option for option in options) else ["sampler.steps=3"]
    result = invoke(
        "sample.py", f"ckpt={finished}", group, *options, *steps, "num_samples=4", f"out={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.code == 0, result.err
    with Image.open(tmp_path / "out" / "grid.png") as image:
        assert image.size == (144, 144)


def test_an_image_does_not_depend_on_its_batch(finished):
    """Floats of a UNet whose every weight is at work, before they are rounded to bytes."""
    model = load(finished / "checkpoints" / "last.ckpt", None)[0].model
    torch.manual_seed(0)
    for module in model.denoiser.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.reset_parameters()
    model.denoiser.parameterization = parameterizations.x0  # outputs of the size of images, with any weights
    for sampler in (DDIM(UniformTime(), 20), Ancestral(UniformTime(), 20)):
        drawn = [
            torch.cat(
                [
                    sampler(model.denoiser, model.denoiser.schedule, model.shape, Noise(0, index))
                    for index in torch.arange(64).split(batch_size)
                ]
            )
            for batch_size in (7, 64)
        ]
        assert 0.03 < drawn[0].std() < 3
        assert (drawn[0] - drawn[1]).abs().max() <= 1e-5


def test_png_and_npz_hold_the_same_images(finished, tmp_path, invoke):
    for kind in ("png", "npz"):
        result = invoke(
            "sample.py", f"ckpt={finished}", "num_samples=5", "sampler.steps=2", f"format={kind}",
            f"batch_size={2 if kind == 'png' else 5}", f"out={tmp_path / kind}",
        )  # fmt: skip
        assert result.code == 0, result.err
    images = np.load(tmp_path / "npz" / "samples.npz")["images"]
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    for i, image in enumerate(images):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "png" / f"{i:06d}.png")), image[..., 0])


def test_the_weights_asked_for_are_the_ones_used(finished):
    path = finished / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = "network.head.weight"
    raw, ema = checkpoint["state_dict"][f"denoiser.{name}"], checkpoint["denoiselab"]["ema"]["ema"][name]
    assert not torch.equal(raw, ema)
    for asked, expected, called in (("raw", raw, "raw"), ("ema", ema, "ema"), (None, ema, "ema")):
        loaded, used = load(path, asked)
        assert used == called
        assert torch.equal(loaded.model.denoiser.get_parameter(name), expected)


def test_a_sweep_runs_each_job_in_its_own_directory(tmp_path, invoke):
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", "-m", "optimizer.lr=1e-4,3e-4", "seed=0,1")
    assert result.code == 0, result.err
    (sweep,) = tmp_path.glob("digits/sweep-*")
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done"] * 4
    configs = [OmegaConf.load(sweep / str(number) / "config.yaml") for number in range(4)]
    assert [(c.optimizer.lr, c.seed) for c in configs] == [(1e-4, 0), (1e-4, 1), (3e-4, 0), (3e-4, 1)]
    for number, row in enumerate(rows):
        with (sweep / str(number) / "frontier.csv").open() as file:
            assert min(float(r["score"]) for r in csv.DictReader(file)) == float(row["best_score"])
    assert re.search(r"^3 +0\.0003 +1 +0\.\d+ +ddim@\d+ ema +\d:\d\d +done$", result.out, re.M)
    table = (sweep / "sweep.csv").read_text()
    (sweep / "sweep.csv").unlink()
    found = Sweep.read(sweep)
    write_table(found)
    assert (sweep / "sweep.csv").read_text() == table
    assert (found.swept, found.launcher, len(found.planned)) == (("optimizer.lr", "seed"), "BasicLauncher", 4)
    for job, row in zip(found.jobs, rows, strict=True):
        assert (job.cell["score"], job.n, job.images_seen) == (float(row["best_score"]), 8, 64)
        assert found.own(job) == row["overrides"].split()[-2:]


def test_a_failing_job_does_not_stop_a_sweep_which_can_be_continued(tmp_path, invoke):
    arguments = ["train.py", *QUICK, f"paths.log_dir={tmp_path}", "-m", "data.shape=[3,8,8],[1,8,8]"]
    result = invoke(*arguments)
    assert result.code == 1
    assert "data.shape=[3, 8, 8]" in result.last
    (sweep,) = tmp_path.glob("digits/sweep-*")
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "images of digits have shape" in rows[0]["error"]
    assert "data.shape=[1,8,8]" in result.out
    assert OmegaConf.load(sweep / "1" / "config.yaml").paths.run_dir == str(sweep / "1")
    again = invoke(*arguments, f"hydra.sweep.dir={sweep}")
    assert "64 of 64 images seen" in again.err


def test_allowed_packages_of_the_user(tmp_path, invoke, monkeypatch):
    (tmp_path / "mylab.py").write_text("from denoiselab.schedules import VPLinear\nclass Mine(VPLinear): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = [*QUICK, f"paths.log_dir={tmp_path / 'logs'}", "schedule._target_=mylab.Mine"]
    assert invoke("train.py", *arguments).code == 2
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab.")
    result = invoke("train.py", *arguments)
    assert result.code == 0, result.err


@pytest.mark.slow
def test_the_default_command_starts_as_it_is(run, tmp_path, start):
    """`python train.py` with no argument, up to its first training steps, in an empty folder of its own."""
    import signal
    import time

    process = start("train.py", cwd=tmp_path)
    while not list(tmp_path.glob("logs/digits/*/metrics.csv")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (run_dir,) = tmp_path.glob("logs/digits/*")
    assert (run_dir / "checkpoints" / "last.ckpt").is_file()
    assert list((run_dir / "wandb").glob("offline-run-*"))


def test_brownian_noise_refines_one_image(invoke, finished, tmp_path):
    """Twice the steps change an image less on one path than by fresh draws."""
    images = {}
    for noise, steps in itertools.product(("independent", "brownian"), (40, 80)):
        out = tmp_path / f"{noise}{steps}"
        asked = ["sampler=dpmpp_2m_sde", f"sampler.steps={steps}", f"noise={noise}", "format=npz", "num_samples=16"]
        done = invoke("sample.py", f"ckpt={finished}", *asked, f"out={out}")
        assert done.code == 0, done.err
        images[noise, steps] = np.load(out / "samples.npz")["images"].astype(float)
    change = {noise: abs(images[noise, 40] - images[noise, 80]).mean() for noise in ("independent", "brownian")}
    assert change["brownian"] < 0.5 * change["independent"]


def test_torchs_own_warning_is_not_shown(invoke):
    """That `torch.func.jvp` makes when it first loads: it is nothing a user could mend."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert invoke("train.py", "--cfg", "job").code == 0
        warnings.warn_explicit("deprecated", FutureWarning, "_script.py", 1, module="torch.jit._script")
    assert caught == []
