"""Weights of others through the command line, in and out."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from frozen_models import UNET2D
from omegaconf import OmegaConf
from PIL import Image

from denoiselab.interop import ddim
from denoiselab.interop.weights.layout import Layout
from denoiselab.networks import DDPMUNet
from denoiselab.training.checkpoint_files import read_checkpoint


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline folder of diffusers."""
    folder = tmp_path_factory.mktemp("pipelines") / "ddpm tiny"
    torch.manual_seed(0)
    DDPMPipeline(UNet2DModel(**UNET2D), DDPMScheduler(variance_type="fixed_large")).save_pretrained(folder)
    return folder


@pytest.fixture
def bring(tmp_path, invoke):
    """Import and draw two samples."""

    def call(source, path, *arguments):
        place = [f"import={source}", f"import.path='{path}'", f"log_dir={tmp_path / 'logs'}"]
        return invoke("sample.py", *place, "num_samples=2", "sampler.steps=2", *arguments)

    return call


def test_an_import_is_a_run_directory_and_is_made_once(pipeline, bring, tmp_path):
    result = bring("diffusers", pipeline)
    assert result.code == 0, result.err
    assert "imported, " in result.err
    (run,) = (tmp_path / "logs" / "imported").iterdir()
    assert run.name.startswith("ddpm-tiny-")
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.yaml", "run.json", "samples"}
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert config["network"]["_target_"] == "denoiselab.networks.DDPMUNet"
    assert config == read_checkpoint(run / "checkpoints" / "last.ckpt")["denoiselab"]["config"]
    info = json.loads((run / "run.json").read_text())
    assert run.name.endswith(info["imported"]["sha256"][:12])
    assert len(info["imported"]["files_sha256"]) == 3
    assert info["starts"][0]["versions"]["torch"]
    (samples,) = (run / "samples").iterdir()
    with Image.open(samples / "000000.png") as image:
        assert image.size == (8, 8)
        assert image.mode == "RGB"
    written = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    result = bring("diffusers", pipeline, "seed=1")
    assert result.code == 0, result.err
    assert f"imported before: {run}" in result.err
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written
    assert len(list((run / "samples").iterdir())) == 2


def test_a_damaged_import_is_told(pipeline, bring, tmp_path):
    assert bring("diffusers", pipeline).code == 0
    (run,) = (tmp_path / "logs" / "imported").iterdir()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    result = bring("diffusers", pipeline, "seed=1")
    assert result.code == 2
    assert "holds a damaged import; remove it: " in result.last
    assert str(last) in result.last


def test_an_imported_run_is_exported_as_it_came(pipeline, bring, invoke, tmp_path):
    assert bring("diffusers", pipeline).code == 0
    (run,) = (tmp_path / "logs" / "imported").iterdir()
    result = invoke("sample.py", f"ckpt={run}", "task=export", "task.format=diffusers", f"out={tmp_path / 'out'}")
    assert result.code == 0, result.err
    assert f"DDPMPipeline of diffusers, weights raw: {tmp_path / 'out'}" in result.out
    theirs, ours = (DDPMPipeline.from_pretrained(path) for path in (pipeline, tmp_path / "out"))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    torch.testing.assert_close(ours.unet(x, t).sample, theirs.unet(x, t).sample)
    for option in ("beta_schedule", "beta_start", "beta_end", "variance_type", "prediction_type", "clip_sample"):
        assert ours.scheduler.config[option] == theirs.scheduler.config[option]
    assert (
        invoke("sample.py", f"ckpt={run}", "task=export", "task.format=diffusers", f"out={tmp_path / 'out'}").code == 2
    )


def test_a_trained_run_becomes_a_pipeline_that_samples(finished, invoke, tmp_path):
    for weights in ("ema", "raw"):
        out = tmp_path / weights
        result = invoke(
            "sample.py", f"ckpt={finished}", "task=export", "task.format=diffusers", f"weights={weights}", f"out={out}"
        )
        assert result.code == 0, result.err
        pipeline = DDPMPipeline.from_pretrained(out)
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline(batch_size=2, num_inference_steps=3, output_type="np").images.shape == (2, 8, 8, 1)
    checkpoint = read_checkpoint(finished / "checkpoints" / "last.ckpt")
    average = checkpoint["denoiselab"]["ema"]["ema"]["network.stem.weight"]
    unet = DDPMPipeline.from_pretrained(tmp_path / "ema").unet
    assert torch.equal(unet.conv_in.weight, average)


def test_an_average_is_the_default_and_the_plain_weights_are_kept(bring, tmp_path):
    options = {"shape": [3, 32, 32], "channels": 32, "multipliers": [1, 1], "blocks": 1, "attention_levels": [1]}
    layout = Layout(DDPMUNet, options, ddim.entries(options, ddim.NAMES))
    weights, average = (layout.to_theirs(DDPMUNet(**options).state_dict()) for _ in range(2))
    torch.save([{f"module.{n}": t for n, t in weights.items()}, {}, 0, 5, average], tmp_path / "ckpt.pth")
    first = bring("ddim", tmp_path / "ckpt.pth")
    assert first.code == 0, first.err
    assert "weights ema" in first.out
    assert "weights raw" in bring("ddim", tmp_path / "ckpt.pth", "weights=raw").out
    (run,) = (tmp_path / "logs" / "imported").iterdir()
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert torch.equal(checkpoint["state_dict"]["denoiser.network.stem.weight"], weights["conv_in.weight"])
    assert torch.equal(checkpoint["denoiselab"]["ema"]["ema"]["network.stem.weight"], average["conv_in.weight"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["ckpt: is not given", "import=<source>"]),
        (["import=difusers"], ["import=difusers", "did you mean 'diffusers'"]),
        (["import=diffusers"], ["import.path: is not given", "import.path=..."]),
        (["import=diffusers", "import.path=FOLDER", "ckpt=x"], ["ckpt=x", "give one of them"]),
        (["import=diffusers", "import.path=/nowhere"], ["import.path=/nowhere: there is no such folder"]),
        (["import=diffusers", "import.path=EMPTY"], ["import.path=", "has no model of diffusers"]),
        (["import=diffusers", "import.path=FOLDER", "import.variant=fp16"], ["import.path=", "fp16.safetensors"]),
        (["import=diffusers", "import.path=FOLDER", "+import.foo=1"], ["import.foo=1", "unknown option"]),
        (["import=diffusers", "import.path=FOLDER", "sampler.steps=0"], ["sampler.steps=0"]),
        (["import=openai", "import.path=x"], ["import.noise_schedule: is not given"]),
        (["import=openai", "import.path=x", "import.noise_schedule=x"], ["import.noise_schedule='x'", "'cosine'"]),
        (["import=openai", "import.path=x", "import.noise_schedule=linear"], ["import.num_heads=None", "set one"]),
        (["import=adm", "import.path=/nowhere"], ["import.path=/nowhere: there is no such file"]),
        (["import._target_=os.system", "import=ddim", "import.path=x"], ["os.system", "not allowed"]),
        (["ckpt=x", "task=export", "task.format=foo"], ["task.format='foo'", "'diffusers'"]),
        (["import=diffusers", "import.path=FOLDER", "log_dir=/proc/x"], ["log_dir=/proc/x", "cannot be written to"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_brought_in_is_refused(arguments, says, pipeline, tmp_path, tmp_path_factory, invoke):
    empty = tmp_path_factory.mktemp("empty")
    given = [a.replace("FOLDER", f"'{pipeline}'").replace("EMPTY", str(empty)) for a in arguments]
    few = [] if "task=export" in given else ["num_samples=2"]
    result = invoke("sample.py", f"log_dir={tmp_path}", *few, *given)
    assert result.code == 2
    assert result.last.startswith("sample.py: ")
    for text in says:
        assert text in result.last
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:1000]),
        lambda file: file.with_suffix(".bin").write_bytes(b"cposix\nmkdir\n(Vowned\ntR.") and file.unlink(),
    ],
    ids=["truncated", "code"],
)
def test_damaged_and_hostile_weights_leave_nothing_behind(damage, pipeline, bring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "model"
    DDPMPipeline.from_pretrained(pipeline).save_pretrained(target)
    damage(target / "unet" / "diffusion_pytorch_model.safetensors")
    result = bring("diffusers", target)
    assert result.code == 2
    assert result.last.startswith(f"sample.py: import.path={target / 'unet' / 'diffusion_pytorch_model'}")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_network_that_diffusers_does_not_have_is_not_exported(finished, invoke, tmp_path):
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["denoiselab"]["config"]["parameterization"]["_target_"] = "denoiselab.parameterizations.velocity"
    torch.save(checkpoint, tmp_path / "velocity.ckpt")
    result = invoke(
        "sample.py",
        f"ckpt={tmp_path / 'velocity.ckpt'}",
        "task=export",
        "task.format=diffusers",
        f"out={tmp_path / 'out'}",
    )
    assert result.code == 2
    assert "task.format=diffusers: parameterization=velocity" in result.last
    assert {path.name for path in tmp_path.iterdir()} == {"velocity.ckpt"}


def test_every_source_composes():
    """Each names a class and only options that it has."""
    from configurations import composing, names
    from hydra import compose

    from denoiselab.nodes.instantiate import resolve

    with composing():
        for name in names("import"):
            node = OmegaConf.to_container(compose(f"import/{name}")["import"])
            source = resolve(node.pop("_target_"), "import")
            missing = {key for key, value in node.items() if value == "???"}
            assert "path" in missing
            own = {"image_size": 8, "linear_start": 1e-3, "linear_end": 1e-2} if name == "ldm" else {}
            asked = {**dict.fromkeys(missing, "linear"), **own, "num_heads": 1} if name in ("openai", "ldm") else {}
            source(**{**node, **asked})


def test_an_import_with_data_has_a_frontier(tmp_path, tmp_path_factory, invoke, monkeypatch):
    """As a trained run: into its directory, against the data it was imported with."""
    monkeypatch.chdir(tmp_path)  # the extractor's cache is in logs/
    pipeline = tmp_path_factory.mktemp("pipelines") / "digits"
    torch.manual_seed(0)
    unet = UNet2DModel(**UNET2D, in_channels=1, out_channels=1)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(pipeline)
    place = ["import=diffusers", f"import.path='{pipeline}'", f"log_dir={tmp_path / 'logs'}", "task=frontier"]
    place += ["task.samplers=[ddim]", "task.nfe=[2]", "task.extra_nfe={}", "task.num_samples=8"]
    result = invoke("sample.py", *place)
    assert result.code == 2
    assert "was imported without data to measure against; name some with data=" in result.last
    extractor = (
        "{_target_: denoiselab.evaluation.DomainClassifier, epochs: 1, batch_size: 64, lr: 5.0e-3, dimension: 64}"
    )
    result = invoke("sample.py", *place, "data=digits", "data.size=100", f"task.extractor={extractor}")
    assert result.code == 0, result.err
    runs = (tmp_path / "logs" / "imported").iterdir()
    (run,) = (path for path in runs if (path / "frontier.csv").exists())
    assert OmegaConf.load(run / "config.yaml").data.name == "digits"


def test_data_of_another_shape_are_refused(pipeline, tmp_path, invoke):
    place = ["import=diffusers", f"import.path='{pipeline}'", f"log_dir={tmp_path}"]
    result = invoke("sample.py", *place, "data=digits")
    assert result.code == 2
    assert "data.shape=[1, 8, 8]: the network of ddpm-tiny takes [3, 8, 8]." in result.last
    assert list(tmp_path.iterdir()) == []
    result = invoke("sample.py", "ckpt=x", "data=digits", "task=export", "task.format=diffusers")
    assert "data=digits: not with this task, but with task=edit, encode" in result.last


def test_a_network_with_classes_and_no_null_class_samples_and_is_not_guided(tmp_path, tmp_path_factory, invoke):
    pipeline = tmp_path_factory.mktemp("pipelines") / "classes"
    unet = UNet2DModel(**UNET2D, in_channels=1, out_channels=1, num_class_embeds=10)
    unet.save_pretrained(pipeline)
    DDPMScheduler().save_pretrained(pipeline)
    place = ["import=diffusers", f"import.path='{pipeline}'", f"log_dir={tmp_path / 'logs'}"]
    result = invoke("sample.py", *place, "num_samples=2", "sampler.steps=2")
    assert result.code == 0, result.err
    result = invoke("sample.py", *place, "data=digits", "task=frontier", "task.guidance=[1,2]")
    assert result.code == 2
    assert "task.guidance=[1.0, 2.0]: the model was trained without a null class" in result.last
