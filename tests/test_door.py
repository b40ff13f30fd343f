"""The package as a Python library: light to import, choices by their shipped names, closed forms, and a built wheel."""

import re
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from configurations import build, names, stated
from conftest import ROOT, quick_to_start
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import denoiselab
from denoiselab import choices
from denoiselab.analytic import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from denoiselab.model import Model
from denoiselab.noise import SAMPLING, Noise
from denoiselab.samplers import DPMSolverPP, RhoRK
from denoiselab.samplers.spacing import Karras
from denoiselab.schedules import VPLinear

HEAVY = ("pytorch_lightning", "lightning", "torchmetrics", "torchvision", "torch_fidelity", "wandb", "matplotlib")

IMPORT = """
import sys, time
import torch
start = time.process_time()
import denoiselab
from denoiselab import {names}
seconds = time.process_time() - start
print(seconds, *[name for name in {heavy} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("public", "heavy"),
    [
        ("Model, Noise, analytic, exact, sampler", (*HEAVY, "hydra", "omegaconf", "scipy", "PIL")),
        ("load", (*HEAVY, "hydra", "omegaconf")),
    ],
)
def test_the_import_is_light(public, heavy):
    """Of the processor's time, over torch's own; in one of three starts."""
    assert quick_to_start(IMPORT.format(names=public, heavy=heavy), 0.3)


def test_names_are_listed_and_others_are_refused_with_those():
    for name in denoiselab.__all__:
        assert getattr(denoiselab, name) is not None
        assert name in dir(denoiselab)
    assert denoiselab.Model is Model
    with pytest.raises(AttributeError, match=r"no attribute 'sampelr'; it has: .*sampler"):
        denoiselab.sampelr  # noqa: B018


@pytest.mark.parametrize("group", ["sampler", "spacing", "schedule", "objective", "metric", "parameterization"])
def test_every_choice_has_the_settings_of_its_configuration(group):
    for name in names(group):
        config = OmegaConf.merge({"sigma_data": 0.5, "batch_size": 32}, stated(f"{group}/{name}"))
        if "data" in str(OmegaConf.to_container(config, resolve=False)):
            continue
        assert choices.node(group, name) == OmegaConf.to_container(config[group], resolve=True), name
    assert choices.names(group) == names(group)


def test_options_are_values_names_and_objects():
    own, ours = denoiselab.sampler("dpmpp_2m"), build("sampler", "dpmpp_2m")
    assert (type(own), own.steps, own.order) == (DPMSolverPP, ours.steps, ours.order)
    assert type(own.spacing) is type(ours.spacing)
    assert denoiselab.sampler("dpmpp_2m", steps=7).steps == 7
    grid = denoiselab.spacing("karras", rho=5)
    for given in (grid, "karras", {"_target_": "denoiselab.samplers.spacing.Karras", "rho": 5.0}):
        sampler = denoiselab.sampler("heun", spacing=given)
        assert (type(sampler), type(sampler.spacing)) == (RhoRK, Karras)
    assert sampler.spacing.rho == grid.rho == 5
    assert denoiselab.sampler("heun", spacing={"scale": 0.3}).spacing.scale == 0.3  # the rest is as it was
    assert isinstance(denoiselab.schedule("vp_linear", beta_max=10.0), VPLinear)
    out = denoiselab.network("ddpm_tiny", shape=(1, 8, 8))(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert out.shape == (2, 1, 8, 8)
    objective = denoiselab.objective("edm")
    assert type(objective) is type(build("objective", "edm"))
    assert objective.weighting.keywords == {"sigma_data": 0.5}


@pytest.mark.parametrize(
    ("group", "name", "options", "sentence"),
    [
        ("sampler", "dpmpp2m", {}, "sampler=dpmpp2m: unknown; did you mean 'dpmpp_2m'? allowed: analytic_ddim"),
        ("samplr", "ddim", {}, "samplr: there is no such group; did you mean 'sampler'? allowed: adversary"),
        ("sampler", "dpmpp_2m", {"stepz": 3}, "sampler.stepz=3: unknown option; did you mean 'sampler.steps'?"),
        ("sampler", "dpmpp_2m", {"steps": 0}, "sampler.steps=0: it must be at least 1."),
        ("sampler", "dpmpp_2m", {"steps": "x"}, "sampler.steps='x': should be a valid integer."),
        ("sampler", "heun", {"spacing": "karas"}, "spacing=karas: unknown; did you mean 'karras'?"),
        ("network", "ddpm_tiny", {}, "network.shape: is not given and has no default; pass network.shape=..."),
        (
            "variance",
            "learned",
            {},
            "variance=learned: it sets options of other parts, so it cannot be built by itself.",
        ),
        ("import", "edm", {}, "import.path: is not given and has no default"),
    ],
)
def test_a_wrong_choice_gets_the_sentence_of_the_command_line(group, name, options, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        denoiselab.build(group, name, **options)
    assert str(error.value).startswith(sentence)


def test_choices_leave_the_users_own_hydra_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        assert denoiselab.sampler("ddim", spacing="karras").steps
        assert GlobalHydra.instance().hydra is before
        assert hydra.compose("mine") == {"a": 1}
    assert denoiselab.names("sampler") == names("sampler")
    assert not GlobalHydra.instance().is_initialized()


MIXTURE = MixtureDenoiser(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), torch.tensor([0.1, 0.2]), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    "closed",
    [
        MIXTURE,
        GaussianDenoiser(torch.zeros(3), torch.eye(3)),
        EmpiricalDenoiser(torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))),
    ],
)
@pytest.mark.parametrize("schedule", ["vp_linear", "flow", "edm"])
def test_a_closed_form_is_sampled_like_a_trained_model(closed, schedule):
    sampler = denoiselab.sampler("dpmpp_2m", steps=8)
    model = denoiselab.exact(closed, denoiselab.schedule(schedule))
    samples = model.sample(sampler, 6, seed=3)
    x = sampler(closed, denoiselab.schedule(schedule), closed.shape, Noise(3, torch.arange(6), SAMPLING))
    images = len(closed.shape) == 3
    assert samples.dtype is (torch.uint8 if images else torch.float32)
    assert torch.equal(samples, ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) if images else x)
    level = model.denoiser.schedule.level(torch.tensor(0.5))
    through = model.denoiser.output(x, level).prediction()
    assert torch.allclose(through.x0, closed(x, level).x0, atol=1e-5)


def test_a_closed_form_gives_its_distribution():
    samples = denoiselab.exact(MIXTURE, denoiselab.schedule("vp_linear")).sample(
        denoiselab.sampler("dpmpp_2m", steps=30), 4000, batch_size=4000
    )
    left = samples[:, 0] < 0
    assert float(left.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert samples[left].mean(0).tolist() == pytest.approx([-1.0, 0.5], abs=0.02)
    assert samples[~left].std(0).tolist() == pytest.approx([0.2, 0.2], rel=0.06)


WHEEL = """
import denoiselab, pathlib, sys, torch
from denoiselab import choices
home = pathlib.Path(denoiselab.__file__).parent
assert home.parent == pathlib.Path(sys.argv[1]), home
assert choices.folder() == home / "conf", choices.folder()
assert denoiselab.load("model:digits").shape == (1, 8, 8)
closed = denoiselab.analytic.GaussianDenoiser(torch.zeros(2), torch.eye(2))
model = denoiselab.exact(closed, denoiselab.schedule("vp_linear"))
print(*model.sample(denoiselab.sampler("dpmpp_2m", steps=5), 3).flatten().tolist())
"""


@pytest.mark.slow
def test_a_built_wheel_has_the_choices_and_the_models(tmp_path):
    """Built as pip does and unpacked, it samples in a fresh folder as the checkout does."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "lib")], check=True)
    packed = {path.relative_to(tmp_path / "lib" / "denoiselab") for path in (tmp_path / "lib").rglob("*.yaml")}
    assert packed == {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert (tmp_path / "lib" / "denoiselab" / "py.typed").is_file()
    own = {"PYTHONPATH": str(tmp_path / "lib"), "PATH": "/usr/bin:/bin"}
    arguments = [sys.executable, "-c", WHEEL, str(tmp_path / "lib")]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=own)
    assert result.returncode == 0, result.stderr
    closed = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    model = denoiselab.exact(closed, denoiselab.schedule("vp_linear"))
    here = model.sample(denoiselab.sampler("dpmpp_2m", steps=5), 3).flatten().tolist()
    assert [float(value) for value in result.stdout.split()] == here
    assert Path(choices.folder()) == ROOT / "conf"


@pytest.mark.parametrize(
    ("which", "options", "sentence"),
    [
        (-1, {}, "which=-1: give a number"),
        ("3", {}, "which='3': give a number"),
        (True, {}, "which=True: give a number"),
        (2, {"steps": 0}, "steps=0: it must be a whole number of at least 1"),
        (2, {"nfe": 2.5}, "nfe=2.5: it must be a whole number of at least 1"),
        (2, {"seed": -1}, "seed=-1: it must be a whole number of at least 0"),
        (2, {"batch_size": 0}, "batch_size=0: it must be a whole number of at least 1"),
        (2, {"cond": [1, 2]}, "cond=[1, 2]: it must be a denoiselab.Conditioning"),
    ],
)
def test_a_model_refuses_what_it_cannot_sample(which, options, sentence):
    model = denoiselab.exact(
        denoiselab.analytic.GaussianDenoiser(torch.zeros(2), torch.eye(2)), denoiselab.schedule("flow")
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        model.sample(denoiselab.sampler("ddim"), which, **options)
    with pytest.raises(ValueError, match="sampler='ddim': it must be a Sampler"):
        model.sample("ddim", 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: denoiselab.sampler(None), "sampler=None: unknown; allowed: "),
        (lambda: denoiselab.sampler(5), "sampler=5: unknown; allowed: "),
        (lambda: denoiselab.build(None, "ddim"), "None: there is no such group; allowed: "),
        (lambda: denoiselab.names(3), "3: there is no such group; allowed: "),
        (lambda: denoiselab.exact(3, denoiselab.schedule("flow")), "closed=3: it must be a closed form"),
        (lambda: denoiselab.exact(GaussianDenoiser(torch.zeros(2), torch.eye(2)), "flow"), "schedule='flow': it must"),
        (lambda: denoiselab.load(None), "source=None: it must be a path"),
        (lambda: denoiselab.load(3), "source=3: it must be a path"),
        (lambda: denoiselab.load(""), "source='': it must be a path"),
        (lambda: denoiselab.load(".", weights=3), "weights=3: it must be a name"),
        (lambda: denoiselab.load(".", device="cud"), "device='cud': this machine has no such device; allowed: 'cpu'"),
        (lambda: denoiselab.load(".", device="cuda:99"), "device='cuda:99': this machine has no such device"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value).startswith(sentence)
