"""experiment=toy_2d and every method, from the command line to the pictures."""

import json

import numpy as np
import pytest
from configurations import composing, names
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import wavfile

from denoiselab.app.building.check_run import check_config
from denoiselab.app.config.overrides import composed
from denoiselab.app.runs.run_id import run_id
from denoiselab.model import NotFinite
from denoiselab.nodes.instantiate import construct

TOY = [
    *("experiment=toy_2d", "logger=none", "max_images=2048", "lr_schedule.images=1024"),
    *("network.width=8", "network.depth=1", "data.size=2000", "data.held_out=400"),
    *("evaluation.num_samples=200", "evaluation.nfe=[4,9]"),
]
DIGITS = [
    "debug=fast_dev_run",
    "logger=none",
    "network.channels=8",
    "network.groups=4",
    "traceback=false",
    "evaluation.extractor.epochs=1",
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("toy")


def test_a_toy_run_leaves_its_pictures_and_can_be_sampled(invoke, logs):
    path = logs / "run"
    result = invoke("train.py", *TOY, f"paths.log_dir={logs}", f"paths.run_dir={path}")
    assert result.code == 0, result.err
    assert "fresh data score" in result.out
    records = json.loads((path / "frontier.json").read_text())
    assert {r["metric"] for r in records} == {"sliced_w1"}
    assert all(r["floor"] > 0 and r["split"] == "held_out" for r in records)
    for name in ("toy_2d.png", "frontier.png", "samples/heun.png"):
        with Image.open(path / name) as image:
            assert image.size[0] > 300
    out = logs / "points"
    result = invoke("sample.py", f"ckpt={path}", "num_samples=50", "sampler=ddim", "sampler.steps=3", f"out={out}")
    assert result.code == 0, result.err
    assert np.load(out / "samples.npz")["points"].shape == (50, 2)
    assert (out / "grid.png").is_file()


@pytest.mark.parametrize("method", ["mean_flow", "ect"])
def test_a_model_of_few_steps_is_scored_with_what_lies_outside(method, invoke, logs):
    path, recipe = logs / method, f"experiment=checkerboard_{method}"
    result = invoke("train.py", recipe, *TOY[1:], "init_weights=raw", "batch_size=64", f"paths.run_dir={path}")
    assert result.code == 0, result.err
    cells = json.loads((path / "frontier.json").read_text())
    assert [cell["nfe"] for cell in cells] == [4, 9]
    assert all(0 < cell["scores"]["outside"]["value"] <= 1 for cell in cells)


def test_reflow_does_not_start_without_its_pairs(invoke, logs):
    """A value that Hydra calls missing would leave the default, null, and so train on the data."""
    result = invoke("train.py", "experiment=checkerboard_reflow", *TOY[1:], f"paths.log_dir={logs}")
    assert (result.code, result.last.split(":")[:2]) == (2, ["train.py", f" pairs={logs}/checkerboard/pairs"])


def test_a_run_on_waveforms_can_be_scored_seen_and_heard(invoke, logs):
    path = logs / "tones"
    result = invoke(
        "train.py", "experiment=tones", "logger=none", "max_images=64", "batch_size=32", "lr_schedule.images=32",
        "network.channels=8", "network.groups=4", "network.heads=1", "data.shape=[1,64]", "data.size=100",
        "data.held_out=40", "evaluation.num_samples=20", "evaluation.samplers=[dpmpp_2m]", "evaluation.nfe=[4]",
        "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null",
        f"paths.log_dir={logs}", f"paths.run_dir={path}",
    )  # fmt: skip
    assert result.code == 0, result.err
    (record,) = json.loads((path / "frontier.json").read_text())
    assert (record["metric"], record["shape"]) == ("sliced_w1", [1, 64])
    assert 0 < record["floor"] < record["score"]
    for kind, out in (("npz", logs / "npz"), ("png", logs / "wav")):
        result = invoke("sample.py", f"ckpt={path}", "num_samples=3", "sampler.steps=2", f"format={kind}", f"out={out}")
        assert result.code == 0, result.err
        assert (out / "grid.png").is_file()
    waveforms = np.load(logs / "npz" / "samples.npz")["waveforms"]
    assert waveforms.shape == (3, 1, 64)
    rate, heard = wavfile.read(logs / "wav" / "000001.wav")
    assert (rate, heard.dtype) == (16_000, np.int16)
    assert np.abs(heard - np.clip(waveforms[1, 0] / 4, -1, 1) * 32767).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("experiment", [[], ["experiment=toy_2d"]], ids=["images", "points"])
@pytest.mark.parametrize("debug", names("debug"))
def test_every_debug_choice_fits_images_and_points(experiment, debug):
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    with composing():
        config = composed("train", [*experiment, f"debug={debug}"])
        plain = OmegaConf.to_container(config, resolve=True)
        check_config(plain, sweeping=False)
    construct(plain["lr_schedule"], "lr_schedule")
    assert plain["data"]["size"] == 32 or debug != "overfit"


@pytest.mark.parametrize("data", ["two_moons", "checkerboard", "eight_gaussians", "pinwheel"])
def test_every_toy_set_trains(invoke, logs, data):
    result = invoke("train.py", *TOY, f"data={data}", f"paths.log_dir={logs}")
    assert result.code == 0, result.err


SMALL_VDM = ["schedule.width=16"]  # its schedule is inverted by bisection, at 1024 units otherwise


@pytest.mark.parametrize("method", names("method"))
def test_every_method_trains_points(invoke, logs, method):
    extra = {"vlb": ["decoder@objective.decoder=real"], "vdm": [*SMALL_VDM, "decoder@objective.decoder=real"]}
    extra["iddpm"] = ["decoder@objective.bound.decoder=real"]
    result = invoke("train.py", *TOY, f"method={method}", *extra.get(method, []), f"paths.log_dir={logs}")
    assert result.code == 0, result.err


@pytest.mark.parametrize("method", ["ddpm", "iddpm", "vdm", "sliced", "ncsn"])
def test_methods_train_images(invoke, logs, method):
    """Those whose objective or output differs between points and images."""
    extra = SMALL_VDM if method == "vdm" else []
    result = invoke(
        "train.py", *DIGITS, f"method={method}", *extra, "evaluation.samplers=[ddim]", f"paths.log_dir={logs}"
    )
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["schedule=flow"], "parameterization=eps: x0 and eps do not follow from its output"),
        (["schedule=zero_snr"], "parameterization=eps"),
        (["schedule=jsd", "parameterization=score"], "parameterization=score"),
        (["denoiser=discrete"], "StepIndex counts the levels of a discrete schedule"),
        (["denoiser=edm", "schedule=flow", "parameterization=v"], "denoiser.time_label=LogNoise"),
        (["variance=learned_range"], "does not train a learned variance"),
        (["objective=hybrid"], "Hybrid trains a learned variance"),
        (["objective=vlb"], "variance=none"),
        (["objective=vlb", "variance=fixed_large"], "VPLinear is continuous"),
        (["objective=simple_discrete"], "VPLinear is continuous"),
        (
            ["objective=vlb_importance", "variance=fixed_large", "schedule=ddpm", "schedule.betas.steps=500"],
            "steps=1000",
        ),
        (["network.outputs=2"], "network.outputs"),
        (["schedule=ddpm", "schedule.betas.end=0.5", "schedule.betas.steps=100"], "between 0 and 1"),
        (["schedule=ve", "schedule.sigma_min=60"], "sigma_min=60 and sigma_max=50.0"),
        (["sigma_data=0"], "sigma_data"),
        (["method=edmm"], "method=edmm: unknown"),
        (["data=swiss_roll"], "choose evaluation=points"),
        (["data=swiss_roll", "evaluation=points"], "network=mlp"),
        (["experiment=toy_2d", "evaluation.samplers=[ddpm]"], "evaluation.samplers: ddpm: Clip keeps x0 in the range"),
        (["experiment=toy_2d", "evaluation=default"], "evaluation.extractor"),
        (["schedule=sub_vp", "schedule.beta_min=-1"], "beta_min=-1 and"),
        (["objective.level_distribution.uniforms=3"], "it must be a node"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(invoke, logs, options, words):
    """One sentence, code 2, and nothing written."""
    path = logs / "refused"
    result = invoke("train.py", *options, "logger=none", f"paths.run_dir={path}", f"paths.log_dir={logs}")
    assert result.code == 2, result.err
    assert words in result.last, result.err
    assert not path.exists()


def test_level_distribution_and_uniforms_are_choices(invoke, logs):
    chosen = ["level_distribution@objective.level_distribution=logit_normal"]
    chosen += ["uniforms@objective.level_distribution.uniforms=low_discrepancy"]
    result = invoke("train.py", *TOY, *chosen, f"paths.log_dir={logs}")
    assert result.code == 0, result.err


def test_a_run_whose_cells_all_failed_is_done_and_its_value_is_infinite(invoke, logs, monkeypatch):
    def broken(*given, **options):
        raise NotFinite(3, "sample 3 is not finite.")

    monkeypatch.setattr("denoiselab.model.Model.draw", broken)
    path = logs / "failed"
    result = invoke("train.py", *TOY, "callbacks=default", f"paths.log_dir={logs}", f"paths.run_dir={path}")
    assert result.code == 0, result.err
    assert "failed: " in result.out
    assert "sample 3 is not finite. The value of this run is inf." in " ".join(result.err.split())
    assert all(record["error"] for record in json.loads((path / "frontier.json").read_text()))
