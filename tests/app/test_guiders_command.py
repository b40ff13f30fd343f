"""Guiders from the command line: tasks, frontiers, searches, autoguidance, and what is refused."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configurations import CONF
from conftest import QUICK, command
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from denoiselab import load
from denoiselab.app.building.guiders import Guided
from denoiselab.app.building.search_space import Base, combinations
from denoiselab.app.config.overrides import choice
from denoiselab.app.tasks.task import guidance_for
from denoiselab.codecs import Identity
from denoiselab.errors import BadInput
from denoiselab.evaluation.report.searches import word
from denoiselab.guidance import CFGPlusPlus, Guidance
from denoiselab.guides import AutoGuide
from denoiselab.pretrained import read
from denoiselab.samplers import DDIM


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A quick class-conditional run."""
    logs = tmp_path_factory.mktemp("conditional")
    own = ["conditioner=label", "logger=none", "callbacks.frontier.every_images=null", "evaluation.nfe=[2]"]
    words = command("train.py", *QUICK, *own, f"paths.log_dir={logs}", f"paths.run_dir={logs / 'run'}")
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return logs / "run"


@pytest.fixture
def sample(invoke, conditional, tmp_path):
    def call(*arguments, out="out"):
        result = invoke("sample.py", f"ckpt={conditional}", f"out={tmp_path / out}", *arguments)
        return result, tmp_path / out

    return call


DRAWN = ["num_samples=4", "sampler.steps=3", "format=npz"]


def test_samples_state_the_guider_where_it_acts(sample, conditional):
    drawn = {}
    for name, options, wanted in (
        ("plain", ["guidance=3"], None),
        ("split", ["guidance=3", "guider.split=true"], None),
        ("neutral", ["guidance=1", "guider=apg"], None),
        ("apg", ["guidance=3", "guider=apg", "guider.interval=[0.2,1.6]"], {"name": "apg", "interval": [0.2, 1.6]}),
        ("cfgpp", ["guidance=0.6", "guider=cfgpp"], {"name": "cfgpp", "depends_on_nfe": True}),
    ):
        result, out = sample(*DRAWN, *options, out=name)
        assert result.code == 0, result.err
        record = json.loads((out / "samples.json").read_text())
        assert record.get("guider") == wanted
        drawn[name] = np.load(out / "samples.npz")["images"], record
    assert np.abs(drawn["split"][0].astype(int) - drawn["plain"][0]).max() <= 1
    assert drawn["plain"][1]["network_evaluations"] == 6
    assert drawn["neutral"][1]["network_evaluations"] == 3
    assert 3 < drawn["apg"][1]["network_evaluations"] < 6
    model = load(conditional)
    own = model.sample(DDIM(steps=3), 4, guidance=Guidance(0.6, CFGPlusPlus()))
    assert np.array_equal(own.numpy()[:, 0], drawn["cfgpp"][0][..., 0])


def test_the_default_scale_of_cfgpp_is_told_to_be_its_largest(capsys):
    opened = SimpleNamespace(model=None, loaded=SimpleNamespace(config={}), path=None, weights="ema")
    for target, scale, told in (
        ("CFGPlusPlus", 1.0, True),
        ("CFGPlusPlus", 0.6, False),
        ("ClassifierFree", 1.0, False),
    ):
        asked = SimpleNamespace(guider={"_target_": f"denoiselab.guidance.{target}"})
        assert guidance_for(asked, scale, opened).scale == scale
        said = " ".join(capsys.readouterr().err.split())
        assert ("guider=cfgpp: guidance=1 is its largest scale, not the conditional model" in said) == told


def test_a_guide_is_a_checkpoint_with_weights_of_its_own(sample, conditional, finished, tmp_path):
    result, out = sample(*DRAWN, "guidance=2", "guider=auto", "guider.weights=raw")
    assert result.code == 0, result.err
    record = json.loads((out / "samples.json").read_text())
    assert (record["nfe"], record["network_evaluations"], record["guide_evaluations"]) == (3, 3, 3)
    assert record["guider"]["guide"]["weights"] == "raw"
    model, guide = load(conditional), load(conditional, "raw")
    rows = torch.arange(4)
    x = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(0))
    level = model.denoiser.schedule.level(torch.tensor(0.5, dtype=torch.float64))
    cond = model.conditioner.sample(rows)
    a, b = model.denoiser(x, level, cond).x0, guide.denoiser(x, level, cond).x0
    guided = model.bound(rows, Guidance(2.0, AutoGuide(model=str(conditional), weights="raw")))(x, level).x0
    assert torch.allclose(guided, b + 2 * (a - b), atol=1e-6)
    assert not torch.allclose(a, b)
    shutil.copy(conditional / "checkpoints" / "last.ckpt", tmp_path / "copy.ckpt")
    with pytest.raises(BadInput, match="the guide has the model's own weights"):
        model.bound(rows, Guidance(2.0, AutoGuide(model=str(tmp_path / "copy.ckpt"))))
    result, _ = sample(*DRAWN, "guidance=2", "guider=auto", f"guider.model={finished}", out="uncond")
    assert result.code == 0, result.err


def test_published_settings_of_edm2_guide_samples(sample, invoke, tmp_path):
    guide = tmp_path / "guide"
    power = ["ema=power", "ema.profiles.ema.sigma_rel=0.2", "ema.profiles.narrow.sigma_rel=0.1", "batch_size=16"]
    power += ["ema.snapshots.every_images=16", "evaluation.nfe=[2]", "callbacks.frontier.every_images=null"]
    own = ["conditioner=label", "logger=none", f"paths.log_dir={tmp_path}", f"paths.run_dir={guide}"]
    assert invoke("train.py", *QUICK, *power, *own).code == 0
    presets = [path.stem for path in (CONF / "guider").glob("edm2_*.yaml")]
    assert len(presets) == 6
    for name in presets:
        heun = ["num_samples=2", "format=npz", "sampler=heun", "sampler.steps=6", "spacing@sampler.spacing=karras"]
        result, out = sample(*heun, "guidance=2", f"guider={name}", f"guider.model={guide}", out=name)
        assert result.code == 0, result.err
        record, node = json.loads((out / "samples.json").read_text()), OmegaConf.load(CONF / "guider" / f"{name}.yaml")
        assert record["guider"]["guide"]["weights"] == node.get("weights", "ema")
        assert record["guider"].get("interval") == node.get("interval")
        assert 0 < record["guide_evaluations"] <= record["network_evaluations"] == 11
        assert (record["guide_evaluations"] < 11) == ("interval" in node)


def test_decoding_by_a_guide_counts_its_evaluations(sample):
    asked = ["task=encode", "num_samples=2", "sampler.steps=3", "guidance=2", "guider=auto", "guider.weights=raw"]
    result, out = sample(*asked)
    assert result.code == 0, result.err
    record = json.loads((out / "encoding.json").read_text())
    found = {name: value for name, value in record.items() if "evaluations" in name}
    assert found == {
        "network_evaluations_encode": 2,
        "network_evaluations_decode": 3,
        "guide_evaluations_decode": 3,
    }


def test_a_search_takes_a_guider_with_options():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = Base(choice("sampler", "ddim"), 3, 2.0, choice("guider", "cfg"), None)
        guiders = [{"name": "apg", "eta": 0.5}, "cfg", {"name": "cfgpp", "scale": 0.6}]
        one, other, own = combinations({"guider": guiders}, base)
    assert (one.guider["eta"], "eta" in other.guider) == (0.5, False)
    assert (one.guidance, other.guidance, own.guidance) == (2.0, 2.0, 0.6)
    assert word(one.options["guider"]) == "{name:apg,eta:0.5}"


def test_a_guide_sees_what_the_model_sees(conditional):
    loaded = read(conditional / "checkpoints" / "last.ckpt")
    node = {"_target_": "denoiselab.guides.AutoGuide", "model": str(conditional), "weights": "raw"}

    def refusal(model=loaded.model, **changed):
        config = {**loaded.config, **{part: {**loaded.config[part], **options} for part, options in changed.items()}}
        with pytest.raises(ValueError, match=re.escape(f"guider.model={conditional}: ")) as error:
            Guided(model, config).guider(node, "guider")
        return str(error.value)

    assert Guided(loaded.model, loaded.config).guider(node, "guider").facts["guide"]["weights"] == "raw"
    wide = replace(loaded.model, codec=Identity([1, 16, 16]))
    assert "its network takes [1, 8, 8], the model's [1, 16, 16]" in refusal(wide)
    assert "another codec" in refusal(codec={"_target_": "denoiselab.codecs.Logit"})
    assert "conditioner.num_classes is 10, the model's 5" in refusal(conditioner={"num_classes": 5})
    assert "it was trained on digits, the model on mnist" in refusal(data={"name": "mnist"})


REFUSED = [
    (["guider=agp"], ["guider=agp: unknown; did you mean 'apg'?"]),
    (["guider=apg", "guider.etta=1"], ["guider.etta", "did you mean 'guider.eta'"]),
    (["guider.interval=[2,1]"], ["guider.interval=[2, 1]", "0 <= lo < hi"]),
    (["guider.interval=[500,600]"], ["guider.interval=[500, 600]: no step of sampler=ddim begins there"]),
    (["guider=apg", "guider.momentum=-0.5", "sampler=heun"], ["guider.momentum=-0.5", "several calls a step"]),
    (["guider=cfgpp", "guidance=0.5", "sampler=dpmpp_2m"], ["guider=cfgpp: sampler=dpmpp_2m adds no predicted noise"]),
    (["guider=cfgpp", "guidance=0.5", "sampler=heun"], ["guider=cfgpp: sampler=heun adds no predicted noise"]),
    (["task=frontier", "guiders=[{name:cfgpp,scale:much}]"], ["task.guiders=", "its scale must be a finite number"]),
    (["guider=cfgpp"], ["guidance=3", "lambda, from 0 to 1"]),
    (["guider.interval=3"], ["guider.interval=3: it must be a list"]),
    (["guidance=inf"], ["guidance=inf", "finite"]),
    (["guider=auto", "guider.weights=ema"], ["guider.weights=ema: the guide is the model itself"]),
    (["guider=auto"], ["guider.weights=null: the guide is the model itself"]),
    (["guider=auto", "guider.weights=emma"], ["guider.weights=emma", "did you mean 'ema'"]),
    (["guider=auto", "guider.model=/nowhere"], ["guider.model=/nowhere: no such run directory or checkpoint file"]),
    (["task=frontier", "guiders=[apq]"], ["task.guiders: guider=apq: unknown", "did you mean 'apg'"]),
    (["task=frontier", "guiders=[{eta:1}]"], ["task.guiders", "needs a name"]),
    (["task=search", "over={guider.eta:[1]}"], ["guider.eta=1: unknown option"]),
    (["task=search", "over={guider:[apq]}"], ["guider=apq: unknown"]),
]


@pytest.mark.parametrize(("arguments", "says"), REFUSED)
def test_what_does_not_go_together_is_refused_before_a_file_is_written(arguments, says, sample):
    task = any(text.startswith("task=") for text in arguments)
    common = [] if task else ["num_samples=2", "sampler.steps=3", "guidance=3"]
    given = {text.partition("=")[0] for text in arguments}
    common = [text for text in common if text.partition("=")[0] not in given]
    result, out = sample(*common, *arguments)
    assert result.code == 2, result.err
    for words in says:
        assert words in result.last
    assert not out.exists()


def test_a_frontier_has_scales_and_guiders_as_axes(sample):
    guiders = "guiders=[cfg,{name:apg,interval:[0.2,10]},{name:cfgpp,scale:0.6}]"
    words = ["task=frontier", "samplers=[ddim]", "nfe=[3]", "num_samples=24", "guidance=[1,3]", guiders]
    result, out = sample(*words, "diversity=false")
    assert result.code == 0, result.err
    plain = json.loads((out / "frontier.json").read_text())
    told = [(record["guidance"], record.get("guider")) for record in plain]
    acts = {"name": "apg", "interval": [0.2, 10.0]}
    assert told == [(1.0, None), (3.0, None), (3.0, acts), (0.6, plain[-1]["guider"])]  # at scale 1 two do not differ
    assert plain[-1]["guider"]["name"] == "cfgpp"
    assert "ddim scale=3 apg interval (0.2, 10]" in result.out
    unguided, guided = (record["flops_per_sample"] / record["network_evaluations"] for record in plain[1:3])
    assert unguided == pytest.approx(guided)
    assert len({record["cell"] for record in plain}) == 4
    assert not any("recall" in text for text in (result.out, result.err))

    added = {"precision_classifier": False, "recall_classifier": False, "sliced_w1_pixels": True}
    result, _ = sample(*words)  # finished cells are kept as they are
    assert f"4 cells were scored before without {', '.join(added)}; evaluation.rescore=true" in result.err
    assert json.loads((out / "frontier.json").read_text()) == plain

    result, _ = sample(*words, "rescore=true")
    assert "task.diversity=false leaves them out" in result.err
    records = json.loads((out / "frontier.json").read_text())
    for record, former in zip(records, plain, strict=True):
        own = ("cell", "protocol_sha256", "score", "standard_error", "metric", "metrics", "reference_sha256")
        assert {key: record[key] for key in own} == {key: former[key] for key in own}
        scores = {name: record["scores"].get(name, {}) for name in added}
        assert {name: score["lower_is_better"] for name, score in scores.items()} == added
        assert record["beside"]["sliced_w1_pixels"]["extractor"] == "pixels"
        assert record["beside"]["recall_classifier"]["extractor_sha256"] == record["extractor_sha256"]
    assert "recall_classifier (higher is better)" in result.out
    row = next(line for line in (out / "frontier.csv").read_text().splitlines()[:1])
    assert "sliced_w1_pixels_standard_error" in row
    assert '"sliced_w1_pixels": {"value"' in (out / "frontier.html").read_text()


def test_a_search_is_over_guiders_and_their_options(sample):
    over = "over={guidance:[1,3],guider.interval:[null,[0.2,10]]}"
    result, out = sample("task=search", "nfe=3", "num_samples=24", "confirm=1", over)
    assert result.code == 0, result.err
    (file,) = out.glob("search_*.json")
    found = json.loads(file.read_text())["combinations"]
    assert all({"recall_classifier", "sliced_w1_pixels"} < one["scores"].keys() for one in found)
    acts = {"name": "cfg", "interval": [0.2, 10.0]}
    assert [(one["guidance"], one.get("guider")) for one in found] == [(1.0, None), (3.0, None), (3.0, acts)]
    assert "null" in result.out
    assert "None" not in result.out
    spent = [one["evaluations"] for one in found]
    assert spent[:2] == [3, 6]
    assert 3 < spent[2] < 6
    assert re.search(r"\n\s*3 +null +3 +6 ", result.out)  # guidance, interval, NFE, evaluations


def test_a_solver_is_fitted_to_the_guided_model_and_runs_under_its_guidance_alone(sample):
    few = ["num_samples=8", "iterations=10", "batch_size=8", "task.fine=20", "sampler.steps=3"]
    result, file = sample("task=fit_solver", "method=null", "guidance=3", *few, out="solver.json")
    assert result.code == 0, result.err
    assert "network calls (of guidance, each of two evaluations)" in result.err
    record = json.loads(file.read_text())
    assert (record["guidance"], record["distance"] < record["distance_before"]) == (3.0, True)
    asked = ["task=frontier", f"samplers=[fitted@{file}]", "nfe=[3]", "num_samples=16"]
    result, out = sample(*asked, "guidance=[3]")
    assert result.code == 0, result.err
    assert [cell["network_evaluations"] for cell in json.loads((out / "frontier.json").read_text())] == [6]
    result, _ = sample(*asked, "guidance=[2]", out="other")
    assert result.code == 2
    assert "it was fitted with guidance=3.0, and not with guidance=2.0" in result.last
