"""`--list`, `--help` and completion in bash: what there is to choose, before anything is chosen."""

import json
import os
import pty
import re
import resource
import select
import subprocess
import sys
import time

import pytest
import yaml
from configurations import CONF, composing, names
from conftest import ROOT

import denoiselab
from denoiselab.app.config import completing, listing
from denoiselab.errors import BadInput


def test_every_group_and_every_choice_has_its_line():
    said = yaml.safe_load((CONF / "groups.yaml").read_text())
    with composing():
        groups = dict(listing.groups())
        assert {*groups} == {*said}
        assert all(groups.values())
        for group in groups:
            choices = listing._names(group)
            for name, text in zip(choices, listing._told_apart(group, choices), strict=True):
                told = text[:1] not in ("", "(") and text != name
                assert told, f"{group}={name}: begin its file with a comment of one sentence"
                assert not text.startswith("python "), f"{group}={name}: {text}"


def test_recipes_are_listed_with_their_sentence_and_small_forms_in_one_remark(tmp_path, invoke, monkeypatch):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    head = "# @package _global_\n"
    sentence = (
        "# Mine on CIFAR-10 (arXiv 2006.11239, table 1).\n# python train.py experiment=mine_a\n# FID 3.17. More.\n"
    )
    (folder / "mine_a.yaml").write_text(f"{head}{sentence}name: a\n")
    (folder / "mine_a_tiny.yaml").write_text(f"{head}# Small.\ndefaults: [mine_a, _self_]\n")
    (folder / "mine_b.yaml").write_text(
        f"{head}# python train.py experiment=mine_b \\\n#  x=1\n# Of e.g. B et al. 2. C\n"
    )
    monkeypatch.setenv("COLUMNS", "80")
    result = invoke("train.py", "--list", "experiments", f"--config-dir={tmp_path / 'conf'}")
    assert result.code == 0, result.err
    rows = dict(re.findall(r"^(mine_\w+) +(\S.*)", result.out, re.MULTILINE))
    assert {*rows} == {"mine_a", "mine_b"}
    assert max(map(len, result.out.splitlines())) <= 80
    flowing = " ".join(result.out.split())
    assert "mine_a Mine on CIFAR-10 (arXiv 2006.11239, table 1) mine_b Of e.g. B et al. 2 " in flowing
    assert "mine_a" in flowing.rpartition(": also as <name>_tiny, which trains and samples in seconds")[0]
    assert flowing.endswith("experiment=<name> chooses one.")


@pytest.mark.parametrize(
    ("asked", "group"),
    [("samplers", "sampler"), ("sampler", "sampler"), ("data", "data"), ("operators", "task/operator"),
     ("evaluation/extractor", "evaluation/extractor"), ("frontiers", "frontier")],
)  # fmt: skip
def test_a_group_is_found_by_its_plural_and_its_last_part(asked, group):
    with composing():
        assert listing._group(asked) == group


def test_a_misspelt_group_suggests_the_nearest(invoke):
    for asked, near in (("samplr", "sampler"), ("exp", "experiment")):
        result = invoke("sample.py", "--list", asked)
        assert result.code == 2
        assert f"--list {asked}: no such group; did you mean '{near}'? allowed: adversary, " in result.last


def test_choices_of_a_package_are_listed(tmp_path, monkeypatch, invoke):
    conf = tmp_path / "mylab" / "conf"
    (conf / "sampler").mkdir(parents=True)
    (conf.parent / "__init__.py").write_text("")
    (conf / "sampler" / "mine.yaml").write_text("# My own rule.\n_target_: denoiselab.samplers.DDIM\n")
    (conf / "gadget").mkdir()
    (conf / "gadget" / "a.yaml").write_text("b: 1\n")
    (conf / "groups.yaml").write_text("gadget: what my lab measures with\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab")
    assert re.search(r"^mine +My own rule$", invoke("train.py", "--list=samplers").out, re.MULTILINE)
    assert re.search(r"^gadget +1 +what my lab measures with$", invoke("train.py", "--list").out, re.MULTILINE)


@pytest.mark.parametrize(
    "program", ["train.py", "sample.py", *(f"src/denoiselab/{n}.py" for n in ("report", "convert"))]
)
def test_help_has_a_line_a_group_and_the_options(program, invoke):
    result = invoke(program, "--help")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) < 200
    assert max(map(len, lines[10:])) <= 120
    options = next(i for i, text in enumerate(lines) if text == "Options:")
    assert any(re.match(r"(traceback +false|dtype +float32 +of latents)", text) for text in lines[options:])
    chosen = {"train.py": ("network", "ddpm_tiny"), "sample.py": ("sampler", "ddim")}.get(program)
    if chosen:
        group, default = chosen
        assert re.search(rf"^{group} +{default} +{len(names(group))} +the ", result.out, re.MULTILINE)
        assert "dpmpp_2m_sde" not in result.out
    assert bool(re.search("^task/operator", result.out, re.MULTILINE)) is (program == "sample.py")


@pytest.mark.parametrize("program", ["train.py", "sample.py"])
def test_the_version_is_that_of_the_program(program, invoke):
    result = invoke(program, "--version")
    assert result.code == 0
    found = dict(line.split() for line in result.out.splitlines())
    assert found["denoiselab"] == denoiselab.__version__
    assert {*found} == {"denoiselab", "torch", "pytorch-lightning", "hydra-core"}


@pytest.mark.parametrize(
    ("typed", "some"),
    [
        ("python train.py network=ddpm_t", ["network=ddpm_tiny"]),
        ("python train.py --li", ["--list"]),
        ("python train.py --list sampl", ["sampler"]),
        ("python train.py seed=1 --list=sampl", ["--list=sampler"]),
        ("python sample.py spacing@sampler.spacing=kar", ["spacing@sampler.spacing=karras"]),
        ("python train.py evaluation.samplers=[ddim,heu", ["evaluation.samplers=[ddim,heun"]),
        ("python train.py evaluation.samplers=[ddim@kar", ["evaluation.samplers=[ddim@karras"]),
        ("python train.py evaluation.metrics=[frechet_", ["evaluation.metrics=[frechet_ratio"]),
        ("python sample.py ckpt=lo", ["ckpt=logs/"]),
        ("python sample.py ckpt=logs/ru", ["ckpt=logs/run.ckpt"]),
        ("python sample.py ckpt=model:digits_", ["ckpt=model:digits_label"]),
        ("python train.py teacher=model:digits_", ["teacher=model:digits_label"]),
        ("python train.py netw", None),
        ("python train.py seed=", None),
    ],
)
def test_a_word_is_completed(typed, some, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run.ckpt").touch()
    with composing():
        assert completing.answers(typed) == some


@pytest.mark.parametrize(
    ("python", "program", "options"),
    [("python", "train.py", "max_images="), (".venv/bin/python", "train.py", "max_images="),
     ("python3.11", "-m denoiselab.report", "entity="), ("python", "sample.py", "num_samples=")],
)  # fmt: skip
def test_an_option_is_completed_behind_any_python(python, program, options):
    line = f"{python} {program} {options[:4]}"
    done = subprocess.run(
        [sys.executable, *program.split(), "-sc", "query=bash"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
    )  # fmt: skip
    assert done.stdout.split() == [options], done.stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python sample.py num_", ["num_samples="]),
        ("python sample.py task=likelihood num_", ["num_samples="]),
        ("python sample.py frontier=ddim_table1 nf", ["nfe="]),
        ("python sample.py task=absent num_", []),
        ("python train.py num_", []),
    ],
)
def test_options_of_a_task_are_completed(line, found):
    default = "generate" if "sample.py" in line else None
    with composing():
        assert completing.of_task(line, default) == found


def test_completion_imports_no_torch_and_is_quick():
    line = "python train.py network=ddpm_t"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", "-sc", "query=bash"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.split() == ["network=ddpm_tiny"]
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    assert re.search(r"\| +hydra$", done.stderr, re.MULTILINE)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_bash_completes_a_name_at_the_tab_key():
    """In a terminal, with bash's own way of splitting words."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

    def read_until(text):
        got, end = "", time.monotonic() + 60
        while text not in got and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                got += os.read(terminal, 65536).decode(errors="replace")
        assert text in got, got

    python = json.dumps(sys.executable)
    os.write(
        terminal, f'python() {{ {python} "$@"; }}; eval "$(python train.py -sc install=bash)"; echo do""ne\n'.encode()
    )
    read_until("done")
    os.write(terminal, b"python train.py network=ddpm_t\t")
    read_until("network=ddpm_tiny")
    os.write(terminal, b" evaluation.samplers=[ddim,heu\t")
    read_until("[ddim,heun")
    os.write(terminal, b"\x15python sample.py ckpt=a num_\t")
    read_until("num_samples=")
    os.write(terminal, b"\x15exit\n")
    os.waitpid(child, 0)
    os.close(terminal)


def test_what_bash_runs_can_be_taken_back(invoke):
    assert "complete -o nospace -o default -F _denoiselab python" in invoke("train.py", "-sc", "install=bash").out
    assert invoke("train.py", "-sc", "uninstall=bash").out.startswith("complete -r python")
    with composing(), pytest.raises(BadInput, match="no such group"):
        listing._group("nothing")
