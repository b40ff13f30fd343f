"""Any parameter of a `_target_` is an option as it is named; a configuration states all of them; --help lists them."""

import inspect

import pytest
import yaml
from conftest import QUICK, ROOT
from omegaconf import OmegaConf

from denoiselab.nodes.instantiate import resolve
from denoiselab.nodes.options import PROGRAM_SETS, targets


def job(invoke, program, *arguments):
    """The configuration of a job, as --cfg shows it."""
    result = invoke(program, *arguments, "--cfg", "job", "--resolve")
    assert result.code == 0, result.err
    return OmegaConf.to_container(OmegaConf.create(result.out))


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["sampler=dpmpp_2m", "sampler.taylor=true"], "sampler.taylor", True),
        (["sampler=dpmpp_2m", "+sampler.taylor=true"], "sampler.taylor", True),
        (["sampler=dpmpp_2m", "sampler.spacing.first_lam=-2"], "sampler.spacing.first_lam", -2),
        (["spacing@sampler.spacing=karras", "sampler.spacing.rho=5"], "sampler.spacing.rho", 5),
        (["threshold@sampler.threshold=clip", "sampler.threshold.bound=2"], "sampler.threshold.bound", 2),
        (["sampler=dpmpp_2m_sde", "~sampler.eta"], "sampler.eta", 0.0),
    ],
)
def test_options_of_sample_are_written_as_they_are_named(arguments, path, value, invoke):
    config = job(invoke, "sample.py", "ckpt=x", *arguments)
    assert OmegaConf.select(OmegaConf.create(config), path) == value


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["network.norm_eps=1e-5"], "network.norm_eps", 1e-5),
        (["optimizer.amsgrad=true"], "optimizer.amsgrad", True),
        (["trainer.benchmark=true"], "trainer.benchmark", True),
        (["evaluation/extractor=dinov2", "evaluation.extractor.sha256=abc"], "evaluation.extractor.sha256", "abc"),
        (["objective.uncertainty=null"], "objective.uncertainty", None),
        (["denoiser._target_=denoiselab.denoiser.Denoiser"], "denoiser.input_scale", None),
    ],
)
def test_options_of_train_are_written_as_they_are_named(arguments, path, value, invoke):
    config = job(invoke, "train.py", *arguments)
    assert OmegaConf.select(OmegaConf.create(config), path) == value


def test_a_configuration_states_every_option_with_a_literal_default(invoke):
    for path, node in targets(job(invoke, "train.py")):
        target = resolve(node["_target_"], path)
        for name, one in inspect.signature(target).parameters.items():
            if isinstance(one.default, (int, float, str, bool, type(None))) and not (
                path == "trainer" and name in PROGRAM_SETS
            ):
                assert name in node, f"{path}.{name}"


def test_an_experiment_may_set_any_option(invoke):
    place = ROOT / "conf" / "experiment" / "of_this_test.yaml"
    place.write_text("# @package _global_\nnetwork: {norm_eps: 1.0e-4}\nlogger: {wandb: {chart: mine}}\n")
    try:
        config = job(invoke, "train.py", "experiment=of_this_test")
    finally:
        place.unlink()
    assert (config["network"]["norm_eps"], config["logger"]["wandb"]["chart"]) == (1e-4, "mine")


def test_a_run_keeps_options_as_they_were_given(invoke, tmp_path):
    """The record has the user's spelling, the configuration every value; the run's own command continues it."""
    given = [*QUICK, "logger=none", "network.norm_eps=1e-5", f"paths.run_dir={tmp_path / 'run'}"]
    assert invoke("train.py", *given).code == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["network"]["norm_eps"] == 1e-5
    assert config["network"]["middle_attention"] is True
    start = yaml.safe_load((tmp_path / "run" / "run.json").read_text())["starts"][-1]
    assert "network.norm_eps=1e-5" in start["overrides"]
    other = invoke("train.py", *given, "network.norm_eps=1e-6", "max_images=999999")
    assert other.code == 2
    assert "network.norm_eps=1e-06: the run in" in other.last


def test_a_sweep_over_an_option_that_no_file_lists(invoke, tmp_path):
    result = invoke("train.py", "-m", "optimizer.amsgrad=true,maybe", f"paths.log_dir={tmp_path}")
    assert result.code == 2
    assert "optimizer.amsgrad='maybe': should be a valid boolean." in result.last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("sample.py", ["sampler=dpmpp_2m"], ["sampler.lower_order_final", "bool | int", "false", "sampler.steps"]),
        ("sample.py", ["sampler=dpmpp_2m"], ["sampler.spacing: denoiselab.samplers.spacing.Asinh.", "20"]),
        (
            "train.py",
            ["spacing=karras"],
            ["spacing.rho", "7.0", "The power; larger values put more levels near the data."],
        ),
        ("train.py", ["evaluation/extractor=dinov2"], ["evaluation.extractor.model", "vit-l-14", "FD-DINOv2"]),
        ("train.py", ["optimizer"], ["optimizer.weight_decay", "torch.optim.AdamW"]),
        ("train.py", ["network", "network=edm_ddpmpp"], ["network.shape", "${data.shape}"]),
        ("train.py", ["experiment=toy_2d"], ["override /data: swiss_roll"]),
        ("train.py", ["evaluation"], ["num_samples: 512"]),
    ],
)
def test_help_lists_the_options_of_a_choice(program, arguments, says, invoke):
    result = invoke(program, "--help", *arguments)
    assert result.code == 0, result.err
    for text in says:
        assert text in result.out
    assert "trainer.max_steps" not in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sampler=ddmi"], "sampler=ddmi: unknown"),
        (["sampl=ddim"], "sampl: there is no such group"),
        (["sampler.spacings"], "there is no such option"),
    ],
)
def test_help_on_nothing_is_refused(arguments, says, invoke):
    result = invoke("sample.py", "--help", *arguments)
    assert result.code == 2
    assert says in result.last
