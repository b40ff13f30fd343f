"""Every command of README and of the pages of docs/ runs, with a small budget, in the order of its page.

A command that needs what this machine lacks is refused by a sentence that names it. Those of many processes are
accepted by the checks of their program; what they do is tested where their parts are. Of benchmarks and tests on a GPU
pytest finds those that a command asks for; they are not run here.
"""

import itertools
import os
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from conftest import QUICK, ROOT, Result
from pages import PAGES, commands, furnish, words

from denoiselab.app.commands import cli, sweeping
from denoiselab.interop.nvlabs import pickles

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# What this machine need not have, by a part of the command, and how the program says so.
ABSENT = {
    "absent": "absent",
    "/path/to/": "=/path/to/",
    "cifar10": r"data\.root|data=cifar10",
    "import": "import",
    "model:": r"import\.path=",
    "package": r"data\.root=package|codec\.path=logs/|data=emoji",
    "data=emoji": "data|codec",
    "first_stage": "logs/first_stage",
    "logs/emoji_text": "ckpt=logs/emoji_text",
    "extractor=inception": r"evaluation\.extractor",
    "to=wandb_chart": "WANDB_API_KEY",
    "trainer=gpu": r"trainer\.accelerator=gpu",
    "trainer.devices=": r"trainer\.devices=",
    "denoiselab.report": r"runs=\[\]: name at least one",  # named in a sentence, without options
    "to=checkpoint": "it is one file already",  # no folder of trainer=fsdp2
    "conditioner.prompts_file": r"conditioner\.prompts",  # the model is none of texts
    "conditioner.split": r"conditioner\.split",
}

# To install this package or get data; sites are built by a test of their own.
OTHERS = r"npm pack |minilm=|export |python3? -m (venv|mkdocs)|pip install --no-deps "

# By many processes or a cluster, or long however small: checked, not run.
CHECKED = (
    r"^(torchrun|srun)|sweep=(processes|slurm)|launcher=submitit|denoiselab\.plan gpu=|download=true|-m .*seed=0,1,2"
)

# Budgets of commands by what is in them; of two options the later one counts.
EACH_STEP = "['${objective.steps}']"
SMALL = {
    r"^train\.py": ["debug=fast_dev_run", "traceback=false", "trainer.detect_anomaly=false"],
    r"^train\.py(?!.*(network=|=model:|experiment=(?!digits)))": ["network.channels=8", "network.groups=4"],
    r"^train\.py(?!.*(/extractor=|experiment=(?!digits)))": ["evaluation.extractor.epochs=1"],
    r"^train\.py.*experiment=(toy_2d|checkerboard)": ["network.width=8", "network.depth=1", "data.held_out=400"],
    r"^train\.py(?!.*(samplers=|stop=|experiment=(?!digits_conditional)))": ["evaluation.samplers=[ddim]"],
    r"^train\.py.* evaluation\.num_samples": ["evaluation.num_samples=8"],
    r"^train\.py.*kernel": ["evaluation.metric_options={kernel:{block_size:4}}"],
    r"^train\.py.* evaluation\.stop": ["evaluation.max_samples=300", "evaluation.samplers=[ddim]"],
    r"^train\.py.* max_images": ["max_images=64"],
    r"^train\.py.* callbacks\.frontier\.every": ["callbacks.frontier.every_images=64"],
    r"experiment=digits_progressive": ["stages.max_images=[64,64,64,64]"],
    r"experiment=checkerboard_progressive": ["stages.max_images=[64,64,64,64,64,64]"],
    r"experiment=\w+_progressive": [
        *(f"callbacks.{name}.every_images=null" for name in ("frontier", "preview", "held_out")),
        f"evaluation.nfe={EACH_STEP}", f"callbacks.frontier.nfe={EACH_STEP}",
        "callbacks.preview.sampler=ddim", f"callbacks.preview.nfe={EACH_STEP[1:-1]}",
    ],
    r"^sample\.py(?!.*(task|frontier)=)|task=(edit|translate|inverse|interpolate|progressive|likelihood)": [
        "num_samples=2",
    ],
    r"task=(frontier|search|pairs|straightness|losses|truncate|encode)": ["task.num_samples=16"],
    r"task=frontier(?!.*task\.nfe)": ["task.nfe=[3]"],
    r"task=frontier.* task\.nfe=\[\d+,\d+,": ["task.nfe=[5]"],
    r"^sample\.py.* frontier=": ["task.num_samples=16", "task.nfe=[10]"],
    r"task\.stop=decided": ["task.max_samples=300", "task.samplers=[ddim]"],
    r"task/method=ode": ["task.method.rtol=0.1", "task.method.atol=0.1"],
    r"task=fit_grid": ["task.method.num_samples=4", "sampler=ddim", "sampler.steps=3"],
    r"task=fit_solver": [
        "task/method=local_errors", "task.method.num_samples=4", "task.method.fine=16", "sampler.steps=3",
        "task.fine=16", "task.iterations=2", "task.num_samples=8",
    ],
}  # fmt: skip

_DONE = set()


def start(program, given, module=False):
    """A program in this process, to its end; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DENOISELAB_RUN_ID", raising=False)
        patch.setattr(sys, "argv", [program, *given])
        begin = runpy.run_module if module else runpy.run_path
        with pytest.raises(SystemExit) as exit_:
            begin(program if module else str(ROOT / program), run_name="__main__")
    return exit_.value.code or 0


@pytest.fixture(scope="session")
def classes(tmp_path_factory, finished):
    """The directory of a finished quick run of classes, with averages of two widths."""
    path = tmp_path_factory.mktemp("classes") / "run"
    more = ["experiment=digits_conditional", "ema=power", "ema.snapshots.every_images=8", "batch_size=8"]
    places = [f"paths.run_dir={path}", f"paths.cache_dir={finished.parent / 'cache'}"]
    assert start("train.py", [*QUICK, *more, *places]) == 0
    return path


@pytest.fixture
def does(finished, classes, tmp_path, capfd, monkeypatch):
    """Do a command in a folder of its page; what went wrong, if anything."""
    furnish(tmp_path, finished, classes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "example_package" / "src"))  # which a page installs
    monkeypatch.setenv("DENOISELAB_ALLOW", "labparts")

    def run(line, checked):
        place = next((n for n, word in enumerate(line) if word in ("sample.py", "train.py")), 0)
        line = line[place:] if line[place].endswith(".py") else line[1:]
        module = line[0] == "-m"
        program, *given = line[1:] if module else line
        for part, more in SMALL.items():
            small = re.search(part, " ".join([program, *given])) and not {"--help", "--list", "--cfg"} & {*given}
            given += more if small and not checked else []
        capfd.readouterr()
        with monkeypatch.context() as patch:
            if checked:
                patch.setattr(cli, "_run_jobs", lambda *_: None)
                patch.setattr(sweeping, "_work", lambda *_: None)
            code = start(program, given, module)
        out, err = capfd.readouterr()
        return Result(code, out, err.replace("\r", "\n"))

    def do(command):
        line = words(command, tmp_path)
        variables = [*itertools.takewhile(lambda word: re.match("[A-Z_]+=", word), line)]
        line = line[len(variables) :]
        if line[:2] == ["python", "-m"] and line[2] in ("pip", "pytest"):
            line = line[2:]
        if line[0] == "pip":
            installed(line)
        elif line[0] == "wandb":
            assert line[1] in ("sync", "sweep", "agent")
            assert list((finished / "wandb").glob("offline-run-*")) or line[1] != "sync"
            assert all((ROOT / word).is_file() for word in line if word.endswith(".yaml"))
        elif line[0] == "pytest":
            return collected(line[1:], dict(word.split("=", 1) for word in variables))
        elif "denoiselab.interop.nvlabs.pickles" in line:
            assert pickles.main(line[3:]) == 2
            assert "pickles: network.pkl: " in capfd.readouterr().err
        else:
            done = run(line, checked=re.search(CHECKED, command))
            lacks = [text for part, text in ABSENT.items() if part in " ".join(line)]
            if done.code and not (done.code == 2 and any(re.search(text, done.last) for text in lacks)):
                return done.err[-2000:]
        return None

    return do


def collected(given, variables):
    """Whether pytest finds tests by these options; they are run where they are, on other machines or for hours."""
    if given[0] != "-m":
        assert list((ROOT / given[0]).glob("test_*.py"))
    elif given[-1].startswith("tests/"):
        quiet = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([*quiet, *given], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
        return done.stdout[-2000:] if done.returncode else None
    else:
        assert any(marker.startswith(f"{given[1]}: ") for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"])
    return None


def installed(line):
    """`pip install` of this package with known extras, or of a package in this repository."""
    assert line[1] == "install"
    asked = next(word for word in line[2:] if not word.startswith("-"))
    extras = re.fullmatch(r"(?:denoiselab|\.)\[([\w,]+)\]", asked)
    if extras:
        assert {*extras[1].split(",")} <= {*PROJECT["project"]["optional-dependencies"]}
    else:
        assert (ROOT / asked / "pyproject.toml").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page, does):
    failed = {}
    for command in commands(page):
        again = command in _DONE and not re.search("run_dir=|out=", command)  # but for what a later command reads
        if re.match(OTHERS, command) or again:
            continue
        _DONE.add(command)
        if said := does(command):
            failed[command] = said
    assert failed == {}
