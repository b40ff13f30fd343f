"""BadInput is a ValueError, and whatever catches a ValueError on its way lets its sentence through as it is."""

import pytest
import torch
from configurations import composing

from denoiselab.app.config import overrides, resolvers
from denoiselab.errors import BadInput
from denoiselab.nodes.instantiate import construct
from denoiselab.pretrained import read


@pytest.fixture
def hydra_():
    resolvers.register()
    with composing():
        yield


def test_a_group_beside_an_unknown_key_is_not_blamed(hydra_):
    with pytest.raises(BadInput, match=r"^optimizer\.lrr=1: unknown option; did you mean 'optimizer\.lr'\?"):
        overrides.composed("train", ["schedule=edm", "optimizer.lrr=1"])


@pytest.mark.parametrize(
    ("program", "arguments", "sentence"),
    [
        (
            "sample",
            ["task=generate,export"],
            "task=generate,export: several values; add -m to run one job for each, or",
        ),
        (
            "train",
            ["seed=0,1"],
            "seed=0,1: several values; add -m to run one job for each, or write one list as seed=[",
        ),
        ("sample", ["sampler.spacing=karras"], "sampler.spacing=karras: it is a choice, not a value; write spacing@"),
        ("train", ["evaluation.extractor=vgg16"], "evaluation.extractor=vgg16: it is a choice, not a value; write ev"),
        (
            "sample",
            ["task=inverse", "task.method=dps"],
            "task.method=dps: no choice; write task/method=NAME, one of bou",
        ),
        ("sample", ["task=likelihood", "task.method=bound"], "task.method=bound: it is a choice, not a value; write t"),
    ],
)
def test_choices_written_as_values_and_several_of_them(program, arguments, sentence, hydra_):
    with pytest.raises(BadInput) as error:
        overrides.composed(program, arguments)
    assert str(error.value).startswith(sentence)


def test_a_value_that_is_the_name_of_a_choice_elsewhere(hydra_):
    config = overrides.composed("train", ["name=digits", "data.name=ddim", "evaluation.samplers=[ddim]"])
    assert (config.name, config.data.name) == ("digits", "ddim")


def test_a_sweep_keeps_the_sentence_of_its_parameters(hydra_, monkeypatch):
    def refuse(node):
        raise BadInput("hydra.sweeper.params: wrong.")

    monkeypatch.setattr(overrides, "parameters", refuse)
    with pytest.raises(BadInput, match=r"^hydra\.sweeper\.params: wrong\.$"):
        overrides.jobs("train", ["seed=0,1"], multirun=True)


def test_a_part_that_a_constructor_refuses_keeps_its_name():
    inner = {"_target_": "denoiselab.samplers.spacing.Karras", "rho": 0}
    with pytest.raises(BadInput, match=r"^sampler\.spacing\.rho=0"):
        construct({"_target_": "denoiselab.samplers.DDIM", "spacing": inner, "steps": 5}, "sampler")


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("network", {"_target_": "os.system"}, "network._target_=os.system: not allowed"),
        ("network", {"channels": 3}, "network.channels=3"),
        ("data", {"_target_": "os.system"}, "data._target_=os.system: not allowed"),
    ],
)
def test_a_checkpoint_says_which_of_its_options_is_wrong(part, change, sentence, finished, tmp_path):
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["denoiselab"]["config"][part] |= change
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(BadInput) as error:
        read(tmp_path / "last.ckpt").data()
    assert sentence in str(error.value)
    assert "incomplete or malformed" not in str(error.value)
