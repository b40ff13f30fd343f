"""Texts outside Hydra's grammar are read as they are, and printed so that shell and Hydra read them back."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from denoiselab.app.config.spelling import override, readable

NAMES = [
    "epoch=3-step=4.ckpt", "a b", "a,b", "[a]", "a [b", "it's", 'a"b', "a(1)", "Dürer", "日本", "#1", "a&b", "~a",
    "a;b", "{a}", "a!", "a:b", "50%", "a+b", "a@b", "<a>", "a\\b", "x=[1,2]", "a'b\"c",
]  # fmt: skip


def parsed(argument):
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_read_as_it_is(name):
    assert parsed(readable(f"ckpt=/x/{name}")) == f"/x/{name}"


def test_a_relative_path_that_exists_is_read_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*NAMES, "[a", "'a"):
        Path(name).touch()
        if name not in ("[a]", "{a}"):  # a list, and a mapping
            assert parsed(readable(f"ckpt={name}")) == name


@pytest.mark.parametrize(
    ("argument", "multirun", "value"),
    [
        ("ckpt=[/x/a=1.ckpt,/y]", False, ["/x/a=1.ckpt", "/y"]),
        ("conditioner.prompts=[a red apple, it's a dog!]", False, ["a red apple", "it's a dog!"]),
        ("evaluation.nfe=[5,10]", False, [5, 10]),
        ("optimizer.lr=1e-3", False, 1e-3),
        ("out=null", False, None),
        ("+a.b={c: 1}", False, {"c": 1}),
        ("ckpt='/x/a=b'", False, "/x/a=b"),
        ("evaluation.extra_nfe.heun=[5]", False, [5]),
    ],
)
def test_what_can_be_read_keeps_its_meaning(argument, multirun, value):
    assert parsed(readable(argument, multirun=multirun)) == value


def test_commas_are_of_a_sweep_only_in_a_multirun():
    assert readable("ckpt=/x/a,/x/b", multirun=True) == "ckpt=/x/a,/x/b"
    assert readable("sampler=ddim,heun") == "sampler=ddim,heun"
    assert readable("-m") == "-m"


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1))
@settings(max_examples=300, deadline=None)
def test_an_override_comes_back_from_shell_and_hydra(text):
    for value, back in ((text, text), ([text, "b"], [text, "b"])):
        (argument,) = shlex.split(override("ckpt", value))
        assert parsed(readable(argument)) == back
        assert parsed(argument) == back


def test_checkpoints_of_any_name_are_sampled(finished, tmp_path, invoke):
    for number, name in enumerate(("epoch=3-step=4.ckpt", "Dürer's, [1]")):
        path = tmp_path / name
        if path.suffix:
            shutil.copy(finished / "checkpoints" / "last.ckpt", path)
        else:
            shutil.copytree(finished, path, ignore=shutil.ignore_patterns("wandb"))
        result = invoke(
            "sample.py", f"ckpt={path}", "num_samples=2", "sampler.steps=2", f"out={tmp_path}/a=b, {number}"
        )
        assert result.code == 0, result.err
        assert (tmp_path / f"a=b, {number}" / "grid.png").is_file()
    result = invoke("sample.py", f"ckpt={path}", "task=frontier", "task.nfe=[2]", "task.num_samples=4")
    assert result.code == 0, result.err


def test_the_command_to_continue_names_the_place_once(monkeypatch):
    from denoiselab.app.commands.training import _continues

    for argument, count in (("seed=1", 4), ("paths.run_dir=/x/a=b", 3)):
        lightnings = ['hydra.run.dir="."', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
        monkeypatch.setattr(sys, "argv", ["train.py", readable(argument), *lightnings])
        words = shlex.split(_continues("paths.run_dir", Path("/x/a=b")))
        assert len(words) == count
        assert words[:2] == ["python", "train.py"]
        assert parsed(words[-1]) == "/x/a=b"
