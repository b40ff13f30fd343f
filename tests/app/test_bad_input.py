"""Bad input: one sentence that names the option, the value and what is allowed; nothing is written."""

import pytest
from conftest import QUICK, ROOT
from omegaconf import OmegaConf
from PIL import Image

CASES = [
    (["optimizer.lrr=1"], ["optimizer.lrr=1", "did you mean 'optimizer.lr'", "weight_decay"]),
    (["sead=1"], ["sead=1", "did you mean 'seed'"]),
    (["network=ddpm_tny"], ["network=ddpm_tny", "did you mean 'ddpm_tiny'", "ddpm"]),
    (["experiment=foo"], ["experiment=foo", "digits_conditional"]),
    (["parameterization=scor"], ["parameterization=scor", "did you mean 'score'"]),
    (["optimizer.lr=abc"], ["optimizer.lr='abc'", "number"]),
    (["optimizer.lr=-1"], ["optimizer.lr=-1: invalid learning rate: -1; it must be at least 0."]),
    (["optimizer.betas=[0.5,7]"], ["optimizer.betas=[0.5, 7", "]: invalid beta parameter at index 1: 7"]),
    (["optimizer.betas=[0.9]"], ["optimizer.betas"]),
    (["seed=-1"], ["seed=-1", "greater than or equal to 0"]),
    (["seed=1.5"], ["seed=1.5", "integer"]),
    (["batch_size=0"], ["batch_size=0", "greater than or equal to 1"]),
    (["name=a/b"], ["name='a/b': may hold letters, digits, '_', '.' and '-' only."]),
    (["+foo=3"], ["foo=3", "unknown option"]),
    (["+network.foo=3"], ["network.foo=3", "DDPMUNet takes: shape, channels"]),
    (["+evaluation.foo=3"], ["evaluation.foo=3", "unknown option"]),
    (["a=[1"], ["'a=[1'", "key=value"]),
    (["spacing=karras"], ["spacing", "spacing@sampler.spacing=karras"]),
    (["trainer.devices=2"], ["trainer.devices=2", "trainer.devices=1"]),
    (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=4096"], ["trainer.devices=4096", "core"]),
    (["trainer.devices=none"], ["trainer.devices=none", "auto"]),
    (["trainer.precision=16-true"], ["trainer.precision=16-true", "bf16-mixed"]),
    (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "auto, cpu, gpu"]),
    (["trainer.accumulate_grad_batches=3"], ["batch_size=32", "divisible", "3"]),
    (["-m", "seed=0,1", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"], ["trainer.devices=2", "sweep"]),
    (["-m", "optimizer.lr=1e-3,abc"], ["optimizer.lr='abc'"]),
    (["evaluation.nfe=[0]"], ["evaluation.nfe", "nfe=0", "at least 1"]),
    (["evaluation.nfe=[]"], ["evaluation.nfe=[]"]),
    (["evaluation.samplers=[]"], ["evaluation.samplers=[]"]),
    (["evaluation.samplers=[dim]"], ["evaluation.samplers: sampler=dim: unknown", "did you mean 'ddim'"]),
    (["evaluation.samplers=[ddim,ddim]"], ["ddim", "more than once"]),
    (["evaluation.num_samples=0"], ["evaluation.num_samples=0"]),
    (["+evaluation.extra_nfe.hein=[5]"], ["sampler=hein", "did you mean 'heun'"]),
    (["evaluation.weights=foo"], ["evaluation.weights=foo", "ema, raw"]),
    (["evaluation.weights=ema@0.1"], ["evaluation.weights=ema@0.1", "ema=power"]),
    (["ema=power", "evaluation.weights=ema@0.28"], ["evaluation.weights=ema@0.28", "no snapshots", "ema@0.05"]),
    (["ema=power", "ema.snapshots.keep=1"], ["ema.snapshots.keep=1", "at least 2"]),
    (["ema=power", "ema.profiles.narrow.sigma_rel=0.1"], ["ema.profiles", "same sigma_rel"]),
    (["ema=power", "ema.profiles.ema.sigma_rel=0.5"], ["ema.profiles.ema.sigma_rel=0.5", "at most 0.2887"]),
    (["ema.profiles.ema.images=0"], ["ema.profiles.ema.images=0", "positive"]),
    (["network.multipliers=[1,2,2,2,2]"], ["network.multipliers=[1, 2, 2, 2, 2]", "8x8"]),
    (["data.shape=[3,8,8]"], ["data.shape=[3, 8, 8]", "[1, 8, 8]"]),
    (["schedule.beta_min=30"], ["schedule.beta_min=30", "beta_min < beta_max"]),
    (["conditioner=label", "network.num_classes=null"], ["conditioner", "class_label"]),
    (["callbacks.checkpoints.every_images=0"], ["callbacks.checkpoints.every_images=0"]),
    (["data._target_=pathlib.Path.write_text"], ["pathlib.Path.write_text", "not allowed"]),
    (["data._target_=denoiselab.files.write_text"], ["denoiselab.files.write_text", "not allowed"]),
    (["data._target_=denoiselab.data.images.hashlib.sha256"], ["there is no module"]),
    (["data._target_=denoiselab.data.loading.datamodule.pl.Trainer"], ["there is no module"]),
    (["data._target_=denoiselab.evaluation.features.classifier.safe_open"], ["not allowed"]),
    (["optimizer._target_=torch.optim.adam.cast"], ["not allowed"]),
    (["data._target_=denoiselab.data.Digitz"], ["denoiselab.data has no Digitz; did you mean 'Digits'?"]),
    (["+logger.w._target_=builtins.open"], ["builtins.open", "not allowed"]),
    (["data=image_folder", "data.root=x", "data.shape=[1,8,8]", "data.resize=crop"], ["data.resize='crop'", "stretch"]),
    (["augmentation=flop"], ["augmentation=flop", "did you mean 'flip'"]),
    (["augmentation=shift", "augmentation.pixels=8"], ["augmentation.pixels=8", "less than the sides, 8 and 8"]),
    (["augmentation=non_leaky"], ["network.augmentation_features=9", "unknown option"]),
    (["--config-path", "/tmp"], ["not supported"]),
    (["+hydra.callbacks.x={_target_: builtins.open, file: owned, mode: w}"], ["builtins.open", "not allowed"]),
    (["hydra.callbacks.sweep_table._target_=os.system"], ["os.system", "not allowed"]),
    (["hydra.launcher._target_=os.system"], ["os.system", "not allowed"]),
    (["+hydra.job_logging.handlers.x={class: os.system}"], ["os.system", "not allowed"]),
    (
        ["+callbacks.x={_target_: pytorch_lightning.callbacks.ModelCheckpoint, dirpath: elsewhere}"],
        ["callbacks.x.dirpath=", "elsewhere: it must be in the run's directory"],
    ),
    (
        ["trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler, filename: ../x}"],
        ["trainer.profiler.filename=../x: it must be a file name"],
    ),
    (["-m", "seed=0,1", "paths.run_dir=x"], ["paths.run_dir", "hydra.sweep.dir"]),
    (["-m", "network.multipliers=[1,2],[1,2,2,2,2]"], ["network.multipliers=[1, 2, 2, 2, 2]"]),
    (["network.channels=0"], ["network.channels=0", "at least 1"]),
    (["network.channels=2", "network.groups=2"], ["network.channels=2", "at least 4"]),
    (["network.blocks=0"], ["network.blocks=0"]),
    (["network.attention_levels=[7]"], ["network.attention_levels=[7]", "levels 0 to 1"]),
    (["+network._partial_=true"], ["network._partial_", "DDPMUNet"]),
    (["schedule=null"], ["schedule"]),
    (["data.validation=0.9999999"], ["data.validation", "no image"]),
    (["evaluation.samplers=ddim"], ["evaluation.samplers='ddim'", "write evaluation.samplers=[ddim]"]),
    (["ema.profiles={}"], ["ema.profiles={}: changes nothing", "ema.profiles.ema=..."]),
    (["conditioner=label", "data.num_classes=null"], ["data.num_classes: is not given"]),
    (["threshold@evaluation.threshold=clip"], ["evaluation.threshold=", "unknown option"]),
    (["+trainer.max_steps=5"], ["trainer.max_steps=5", "max_images"]),
    (["trainer.max_epochs=5"], ["trainer.max_epochs=5", "did you mean 'max_images'"]),
    (["lr=1e-3"], ["lr=0.001", "did you mean 'optimizer.lr'"]),
    (["channels=8"], ["did you mean 'network.channels'"]),
    (["learning_rate=1"], ["did you mean 'optimizer.lr'"]),
    (["optimzer.lr=1"], ["did you mean 'optimizer.lr'"]),
    (["ema.profiles.short={decay:0.9}"], ["+ema.profiles.short={_target_: ...}"]),
    (["data.shape=[8,8,1]"], ["data.shape=[8,8,1]", "channels come first; write data.shape=[1,8,8]"]),
    (["~trainer.precision"], ["trainer.precision=None", "allowed: 32-true"]),
    (["~data.name"], ["data.name"]),
    (["~data.shape"], ["data.shape", "give it a value"]),
    (["~callbacks.loss_log.every_images"], ["pass callbacks.loss_log.every_images=..."]),
    (["~callbacks.preview.nfe"], ["callbacks.preview.nfe", "give it a value"]),
    (["evaluation.extra_nfe.hein=[5]"], ["sampler=hein", "did you mean 'heun'"]),
    (["evaluation.metric_options={kernel:{blocks:3}}"], ["metric_options.kernel", "not one of"]),
    (["evaluation.extra_nfe={}"], ["evaluation.extra_nfe={}: changes nothing"]),
    (["name=12"], ["name=12", "write 'name=\"12\"'"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_train_refuses(arguments, says, tmp_path, invoke):
    base = [a for a in QUICK if not a.startswith("evaluation.samplers") or "samplers" not in " ".join(arguments)]
    place = [] if "-m" in arguments else [f"paths.run_dir={tmp_path / 'run'}"]
    result = invoke("train.py", *base, f"paths.log_dir={tmp_path}", *place, *arguments)
    assert result.code == 2
    assert result.last.startswith("train.py: ")
    for text in says:
        assert text in result.last
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "full"])
def test_places_that_cannot_hold_a_run_are_refused(place, tmp_path, invoke):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path / 'logs'}", f"paths.run_dir={tmp_path / place}")
    assert result.code == 2
    assert f"paths.run_dir={tmp_path / place}" in result.last
    assert (tmp_path / "file").read_text() == "mine"
    assert {p.name for p in (tmp_path / "full").iterdir()} == {"mine.txt"}


def test_a_place_without_permission_is_refused(tmp_path, invoke):
    result = invoke("train.py", *QUICK, f"paths.log_dir={tmp_path}", "paths.run_dir=/proc/run")
    assert result.code == 2
    assert "paths.run_dir=/proc/run" in result.last
    assert "cannot be written to" in result.last


SAMPLE_CASES = [
    (["sampler=unipc", "sampler.skp=[0]"], ["did you mean 'sampler.skip'?", "UniPC takes: ", "--help sampler"]),
    (["guidance=2"], ["guidance=2", "takes no condition"]),
    (["conditioner.classes=[7]"], ["conditioner.classes=[7]", "Unconditional takes: nothing."]),
    (["classes=[7]"], ["did you mean 'conditioner.classes'"]),
    (["num_inference_steps=7"], ["did you mean 'sampler.steps'"]),
    (["~sampler.steps"], ["sampler.steps", "pass sampler.steps=..."]),
    (["~seed"], ["seed"]),
    (["threshold@sampler.treshold=clip"], ["did you mean 'sampler.threshold'"]),
    (["task=fit_grid"], ["num_samples=2: unknown option", "FitGrid takes: method, guidance"]),
    (["noise=white"], ["noise", "brownian"]),
    (["num_samples=0"], ["num_samples=0", "at least 1"]),
    (["num_samples=-3"], ["num_samples=-3"]),
    (["sampler.steps=0"], ["sampler.steps=0", "at least 1"]),
    (["sampler.steps=-5"], ["sampler.steps=-5", "at least 1"]),
    (["sampler.steps=2.5"], ["sampler.steps=2.5", "integer"]),
    (["sampler=ddimm"], ["sampler=ddimm", "did you mean 'ddim'"]),
    (["spacing=karras"], ["spacing", "spacing@sampler.spacing=karras"]),
    (["sampler.eta=2"], ["sampler.eta=2", "between 0 and 1"]),
    (["weights=foo"], ["weights=foo", "ema, raw"]),
    (["weights=ema@0.10"], ["weights=ema@0.1", "no averages by a power function", "ema=power"]),
    (["format=jpg"], ["format='jpg'", "'png' or 'npz'"]),
    (["batch_size=0"], ["batch_size=0"]),
    (["accelerator=gpu"], ["accelerator=gpu", "no GPU"]),
    (["ckpt=/nowhere"], ["ckpt=/nowhere", "no such"]),
    (["ckpt=???"], ["ckpt", "not given"]),
    (["spacing@sampler.spacing=listed"], ["pass sampler.spacing.values=..."]),
    (["spacing@sampler.spacing=from_file"], ["pass sampler.spacing.path=..."]),
]


@pytest.mark.parametrize(("arguments", "says"), SAMPLE_CASES, ids=[case[0][0] for case in SAMPLE_CASES])
def test_sample_refuses(arguments, says, finished, tmp_path, invoke):
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", f"out={tmp_path / 'out'}", *arguments)
    assert result.code == 2
    assert result.last.startswith("sample.py: ")
    for text in says:
        assert text in result.last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", ["folders", "none"])
def test_classes_are_counted_from_the_folders(labels, tmp_path, invoke):
    for number, kind in enumerate(("ant", "bee", "cat")):
        (tmp_path / "root" / kind).mkdir(parents=True)
        Image.new("L", (8, 8), 200 + number).save(tmp_path / "root" / kind / "1.png")
    given = [f"data.root={tmp_path / 'root'}", "data.shape=[1,8,8]", f"data.labels={labels}", "conditioner=label"]
    if labels == "folders":
        result = invoke("train.py", "data=image_folder", *given, "--cfg", "job", "--resolve")
        config = OmegaConf.create(result.out)
        assert (config.conditioner.num_classes, config.network.num_classes) == (3, 3)
    else:
        result = invoke("train.py", "data=image_folder", *given, f"paths.log_dir={tmp_path}")
        assert result.code == 2
        assert "has no classes, which conditioner=label needs" in result.last
        result = invoke("train.py", "data=image_folder", *given[1:], f"paths.log_dir={tmp_path}")
        assert "data.root: is not given" in result.last


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data=cifar10"], "data.root: is not given and has no default; pass data.root=...: a folder that contains the "
         "folder cifar-10-batches-py with "),
        (["data=arrays", "data.root=x"], "data.shape: is not given and has no default; pass data.shape=...: [C, "),
        (["data=svhn"], "extra_32x32.mat. They are at ufldl.stanford.edu/housenumbers. data.download=true downloads"),
        (["data=mnist"], "pass data.root=...: folder of the four IDX files, "),
        (["data=imagenet_64"], "the folder of synsets itself; or a .zip of training images. A zip archive made by "),
        (["data=image_folder", "data.shape=[3,8,8]", "conditioner=label"], "pass data.root=...: the folder of images"),
        # Before the weights of what scores them, which are not there either.
        (["experiment=ddpm_cifar10", "data.root=absent", "evaluation.extractor.weights_path=absent"],
         "data.root=absent: there is no folder 'absent'; CIFAR10 needs the folder cifar-10-batches-py with "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_data_that_are_absent_are_named_with_what_and_where_from(arguments, says, tmp_path, invoke):
    result = invoke("train.py", *arguments, f"paths.log_dir={tmp_path}")
    assert (result.code, [*tmp_path.iterdir()]) == (2, [])
    assert says in result.last


def test_a_debug_run_leaves_out_a_size_that_data_do_not_take(invoke, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "example_package" / "src"))
    monkeypatch.setenv("DENOISELAB_ALLOW", "labparts")
    given = ["data=gratings", "debug=fast_dev_run", f"paths.log_dir={tmp_path}"]
    assert "\n  size: 64\n" in invoke("train.py", *given[1:], "--cfg", "job").out
    result = invoke("train.py", *given, "--cfg", "job")
    assert (result.code, "\n  size: 64\n" in result.out) == (0, False)
    assert "data.size=3: unknown option; Gratings takes: " in invoke("train.py", *given, "data.size=3").last


def test_names_of_files_in_what_is_logged_reach_the_terminal_as_text(tmp_path, invoke):
    """A note names what is passed over, before the run ends as the image has another size."""
    Image.new("L", (8, 8), 200).save(tmp_path / "1.png")
    (tmp_path / "\x1b]0;title\x07\x1b[2J.heic").touch()
    given = [f"data.root={tmp_path}", "data.shape=[1,16,16]", "data.labels=none", f"paths.log_dir={tmp_path / 'logs'}"]
    result = invoke("train.py", "data=image_folder", *given)
    assert result.code == 2
    told = result.out + result.err
    assert "\\x1b]0;title\\x07\\x1b[2J.heic" in told
    assert not {character for character in told if ord(character) < 32} - {"\n", "\t"}


def test_samples_are_not_written_over(finished, tmp_path, invoke):
    (tmp_path / "out").mkdir()
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", f"out={tmp_path / 'out'}")
    assert result.code == 2
    assert "exists already" in result.last


def test_an_unwritable_folder_is_told_before_sampling(finished, invoke):
    result = invoke("sample.py", f"ckpt={finished}", "num_samples=2", "out=/proc/x/y")
    assert result.code == 2
    assert "out=/proc/x/y: cannot be written to" in result.last
    assert "sampling" not in result.err


def test_a_checkpoint_cannot_name_what_is_built_from_it(finished, tmp_path, invoke):
    import torch

    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["denoiselab"]["config"]["network"] = {"_target_": "pytorch_lightning.Trainer"}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    result = invoke("sample.py", f"ckpt={tmp_path / 'evil.ckpt'}", "num_samples=2")
    assert result.code == 2
    assert "pytorch_lightning is not an allowed package" in result.last


def test_a_failure_shows_its_traceback_in_debug_alone(tmp_path, invoke, monkeypatch):
    from denoiselab.evaluation import DomainClassifier

    monkeypatch.setattr(DomainClassifier, "fit", lambda *a, **k: 1 / 0)
    for show in (False, True):
        result = invoke(
            "train.py",
            *QUICK[:-1],
            f"traceback={show}",
            f"paths.log_dir={tmp_path}",
            f"paths.run_dir={tmp_path / str(show)}",
        )
        assert result.code == 1
        assert "ZeroDivisionError: division by zero" in result.last
        assert ("Traceback" in result.err) is show
