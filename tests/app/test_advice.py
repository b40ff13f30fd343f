"""What messages advise exists: options, extras; and README installs what CI tests."""

import importlib.metadata
import re
import shlex
import shutil
import tomllib

import pytest
from conftest import ROOT, SharedLoader
from pages import commands

from denoiselab.app.config import overrides, spelling
from denoiselab.errors import BadInput
from denoiselab.nodes import search_path

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_readme_installs_what_ci_does():
    """CI takes the line of the tests from README; the first line starts the program that is tested here."""
    install = [command for command in commands("README.md") if " -m venv " in command]
    assert [shlex.split(command)[-1] for command in install] == ["train.py", "pytest"]
    assert "grep -m1 -E '^python3 -m venv .*pytest' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_a_fitted_grid_is_named_by_the_options_that_its_task_advises(finished, tmp_path, invoke):
    run = shutil.copytree(finished, tmp_path / "a=b, c", ignore=shutil.ignore_patterns("wandb"))
    small = ["task.method.num_samples=4", "sampler=ddim", "sampler.steps=3"]
    result = invoke("sample.py", f"ckpt={run}", "task=fit_grid", "task/method=nearest_end", *small)
    assert result.code == 0, result.err
    sampling, scoring = (
        shlex.split(use) for use in re.search("use, with this sampler: (.*), or (.*)", result.out).groups()
    )
    (cell,) = [word.replace("<name>", "ddim") for word in scoring]
    for given in (
        ["sampler=ddim", "num_samples=2", *sampling],
        ["task=frontier", "task.num_samples=4", "task.nfe=[3]", cell.replace("evaluation.samplers", "task.samplers")],
    ):
        done = invoke("sample.py", f"ckpt={run}", *given)
        assert done.code == 0, done.err


# Where options live that the default run does not have.
PLACES = [
    [], ["experiment=autoencoder_kl_digits"],
    ["sampler=ddpm"], ["evaluation/extractor=inception"], ["data=image_folder"], ["data=litdata"], ["data=cifar10"],
    ["conditioner=label"], ["conditioner=text"], ["codec=autoencoder_kl"], ["task=frontier"],
    ["task=likelihood", "task/method=bound"], ["task=fit_grid"], ["task=encode"], ["task=interpolate"], ["task=export"],
    ["schedule=ddpm"], ["network=adm"], ["ema=power"], ["trainer=ddp"], ["import=dit"], ["import=diffusers"],
    ["logger=wandb"], ["sweep=processes"], ["objective=mean_flow"], ["objective=progressive"],
]  # fmt: skip


def advised():
    """Options with values that messages in the source advise, and the file of each."""
    option = re.compile(r"\b(?:write|pass|use|choose|set|give|or|leave) (\+?([a-z][\w.@/]*)=[\w\[\].:,/-]*[\w\]])")
    for path in sorted((ROOT / "src").rglob("*.py")):
        source = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for message in re.findall(r'"((?:[^"\\]|\\.)*)"', source):
            for text, key in option.findall(message):
                if "." in key or "/" in key or (ROOT / "conf" / key).is_dir():
                    yield text, path.name


@pytest.mark.parametrize(("text", "where"), sorted(dict(advised()).items()))
def test_every_option_that_a_message_advises_exists(text, where):
    failed, group = [], text.lstrip("+").partition("=")[0].partition(".")[0]
    likely = sorted(PLACES, key=lambda place: not any(word.startswith(group) for word in place))
    first = "sample" if group.startswith(("task", "sampler")) else "train"
    for program in dict.fromkeys((first, "train", "sample", "references", "convert", "report")):
        for place in likely:
            with search_path.initialized(ROOT / "conf", program, loader=SharedLoader):
                try:
                    overrides.composed(program, [*place, spelling.readable(text)])
                except BadInput as error:
                    failed.append(str(error))
                else:
                    return
    pytest.fail(f"{where} advises {text}: {failed[0]}")


def test_extras_that_messages_ask_for_exist():
    asked = {
        extra
        for path in (ROOT / "src").rglob("*.py")
        for extra in re.findall(r"denoiselab\[([a-z]+)\]", path.read_text(encoding="utf-8"))
    }
    assert {"extractors", "text", "hub"} <= asked <= set(EXTRAS)
    assert set(importlib.metadata.metadata("denoiselab").get_all("Provides-Extra") or ()) >= asked
