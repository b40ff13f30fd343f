"""Configurations outside of the repository: on the command line, in a package that is allowed or installed."""

import inspect
import re
import sys
from types import SimpleNamespace

import pytest

from denoiselab.app.building import parts
from denoiselab.app.commands import cli
from denoiselab.errors import BadInput
from denoiselab.nodes import packages, signatures
from denoiselab.nodes.instantiate import construct, resolve
from denoiselab.samplers import DDIM

SAMPLER = "defaults:\n  - /spacing@spacing: karras\n  - _self_\n_target_: {}\nsteps: 7\n"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package `mylab` on the path, with a sampler `mine` in its folder of configurations."""
    conf = tmp_path / "site" / "mylab" / "conf"
    (conf / "sampler").mkdir(parents=True)
    (conf.parent / "__init__.py").write_text("")
    (conf.parent / "rules.py").write_text("from denoiselab.samplers import DDIM\nclass Mine(DDIM):\n    pass\n")
    (conf / "sampler" / "mine.yaml").write_text(SAMPLER.format("mylab.rules.Mine"))
    (conf / "sampler" / "theirs.yaml").write_text(SAMPLER.format("denoiselab.samplers.DDIM"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    yield conf
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture
def installed(lab):
    """The package, with the metadata of a distribution that names it."""
    info = lab.parent.parent / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[denoiselab.packages]\nmylab = mylab\n")
    packages._installed.cache_clear()
    yield lab
    packages._installed.cache_clear()


@pytest.fixture
def start(monkeypatch, capfd):
    """Start train.py with a task that builds samplers by their names."""

    def call(*arguments, build=("mine",)):
        built = []

        def task(config, directory):
            nodes = parts.sampler_nodes([*build])
            built.append({name: construct(node, name) for name, node in nodes.items()})
            return 1.0

        def check(config, sweeping):
            parts.sampler_nodes([*build])

        monkeypatch.setattr(cli, "_command", lambda name: SimpleNamespace(check=check, run=task))
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.run("train")
        out, err = capfd.readouterr()
        return stop.value.code, built, out, err.strip()

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-dir", "site/mylab/conf"],
        ["--config-dir=site/mylab/conf", "-m", "seed=0,1"],
        ["hydra.searchpath=[site/mylab/conf]", "-m", "seed=0,1"],
        ["hydra.searchpath=[pkg://mylab.conf]"],
        ["hydra.searchpath=[pkg://mylab/conf]"],
        ["-m", "seed=0,1"],
    ],
)
def test_a_folder_of_an_allowed_package(arguments, lab, start, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab")
    code, built, _, err = start(*arguments, build=["mine", "mine@asinh", "ddim"])
    assert code == 0, err
    assert len(built) == (2 if "-m" in arguments else 1)
    for samplers in built:
        assert [type(sampler).__name__ for sampler in samplers.values()] == ["Mine", "Mine", "DDIM"]
        assert samplers["mine"].steps == 7


def test_an_installed_package_needs_nothing_else(installed, start):
    code, built, _, err = start()
    assert code == 0, err
    assert type(built[0]["mine"]).__module__ == "mylab.rules"


def test_a_folder_alone_may_name_classes_that_are_allowed(lab, start):
    code, built, _, err = start("--config-dir=site/mylab/conf", build=["theirs"])
    assert (code, type(built[0]["theirs"])) == (0, DDIM), err


def test_help_and_suggestions_have_own_choices(installed, start):
    code, _, out, err = start("--list", "samplers")
    assert code == 0, err
    assert any(line.startswith("mine ") for line in out.splitlines())
    assert "did you mean 'mine'?" in start(build=["minee"])[3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-dir=site/conf"], "--config-dir=site/conf: there is no such folder."),
        (["hydra.searchpath=[site/conf]"], "hydra.searchpath=site/conf: there is no such folder."),
        (["hydra.searchpath=site/conf"], "hydra.searchpath=site/conf: must be a list of folders or packages; write"),
        (["hydra.searchpath=[pkg://mylab.conf]"], "mylab is not an allowed package; if you trust its code, set"),
        (["hydra.searchpath=[s3://x]"], "hydra.searchpath=s3://x: must be a folder, or a package as pkg://mylab.conf."),
        (["--config-path=site"], "--config-path and --config-name are not supported; --config-dir=<folder> adds"),
        (["--config-dir=site/mylab/conf"], "sampler mine._target_=mylab.rules.Mine: mylab is not an allowed package;"),
    ],
)
@pytest.mark.parametrize("shows", [[], ["--help"]])
def test_bad_folders(arguments, shows, says, lab, start):
    if shows and "_target_" in says:
        return
    code, built, out, err = start(*arguments, *shows)
    assert (code, built, out) == (2, [], "")
    assert len(err.splitlines()) == 1
    assert says.removeprefix("sampler ") in err
    assert "mylab" not in sys.modules


def test_a_package_without_the_folder_asked_for(lab, start, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab., json")
    for package in ("mylab.config", "json.conf"):
        assert (
            f"hydra.searchpath=pkg://{package}: there is no such folder."
            in start(f"hydra.searchpath=[pkg://{package}]")[3]
        )


@pytest.mark.parametrize(("name", "build"), [("sampler/ddim", "ddim"), ("sampler/mine", "mine"), ("train", "ddim")])
def test_a_choice_in_two_places_is_refused(name, build, installed, start, tmp_path):
    other = tmp_path / "other" / f"{name}.yaml"
    other.parent.mkdir(parents=True)
    other.write_text(SAMPLER.format("denoiselab.samplers.DDIM"))
    assert start(f"--config-dir={installed}")[0] == 0  # the same folder twice is one place
    code, built, _, err = start(f"--config-dir={tmp_path / 'other'}", build=[build])
    assert (code, built) == (2, [])
    group, _, choice = name.rpartition("/")
    assert f"{group or 'configuration'}={choice}: is defined in " in err
    assert f"and in {tmp_path / 'other'}; rename one of them." in err


def test_an_experiment_file_names_no_folder(lab, start, tmp_path):
    (lab / "experiment").mkdir()
    (lab / "experiment" / "far.yaml").write_text("# @package _global_\nhydra: {searchpath: [pkg://antigravity]}\n")
    code, built, _, err = start("--config-dir=site/mylab/conf", "experiment=far")
    assert (code, built, len(err.splitlines())) == (2, [], 1)
    assert "searchpath" in err
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(("shows", "code"), [(["--help"], 0), (["--help", "trainer"], 0), (["--cfg", "job"], 2)])
def test_what_is_shown_is_checked_too(shows, code, lab, start, tmp_path):
    (lab / "experiment").mkdir()
    (lab / "experiment" / "hostile.yaml").write_text(
        "# @package _global_\nhydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: ran}}}}\n"
    )
    found, _, _, err = start("--config-dir=site/mylab/conf", *shows, "experiment=hostile")
    assert found == code
    assert ("not allowed in a chosen file" in err) == (code == 2)
    assert not (tmp_path / "ran").exists()


def test_a_package_is_allowed_whole_and_alone(lab, monkeypatch):
    (lab.parent.parent / "mylab2.py").write_text("class Other: pass\n")
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab")
    assert resolve("mylab.rules.Mine", "sampler").__name__ == "Mine"
    with pytest.raises(BadInput, match="mylab2 is not an allowed package"):
        resolve("mylab2.Other", "sampler")
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab.rules.Mine")
    assert issubclass(resolve("mylab.rules.Mine", "sampler"), DDIM)
    with pytest.raises(BadInput, match="not allowed"):  # imported there, defined elsewhere
        resolve("mylab.rules.DDIM", "sampler")
    for name in ("os.system", "torch.load", "denoiselab.files.sha256_of"):
        with pytest.raises(BadInput, match="not allowed; allowed are "):
            resolve(name, "sampler")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mylab.rules.Mime", "mylab.rules has no Mime; did you mean 'Mine'?"),
        ("mylab.rules.Other", "mylab.rules has no Other."),
        ("mylab.rulez.Mine", "there is no module mylab.rulez; check the name, and that it is installed."),
        ("gone.rules.Mine", "there is no module gone; check the name, and that it is installed."),
        ("mylab.needs.Mine", "mylab.needs cannot be imported (ModuleNotFoundError: No module named 'absent')."),
        ("mylab.broken.Mine", "mylab.broken cannot be imported (SyntaxError: "),
    ],
)
def test_a_name_that_cannot_be_had(name, says, lab, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "mylab,gone")
    (lab.parent / "needs.py").write_text("import absent\n")
    (lab.parent / "broken.py").write_text("class Mine\n")
    with pytest.raises(BadInput, match=re.escape(f"sampler._target_={name}: {says}")):
        resolve(name, "sampler")


def test_options_of_a_class_that_extends_one_of_this_package_are_read(lab):
    found = signatures.read("mylab.rules.Mine")
    assert list(found.parameters) == list(inspect.signature(DDIM).parameters)
    assert found.parameters["eta"].default == 0.0
    assert "mylab" not in sys.modules
