"""Models with their weights, from every kind of source."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from frozen_models import UNET2D

import denoiselab
from denoiselab.pretrained import read, read_weights
from denoiselab.samplers import DDIM


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    UNet2DModel(**UNET2D).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


def test_a_run_is_sampled_as_by_the_program(finished, invoke, tmp_path):
    result = invoke(
        "sample.py", f"ckpt={finished}", "sampler=dpmpp_2m", "sampler.steps=4", "num_samples=5", "seed=7",
        "format=npz", f"out={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.code == 0, result.err
    model = denoiselab.load(finished)
    images = model.sample(denoiselab.sampler("dpmpp_2m", steps=4), 5, seed=7)
    with np.load(tmp_path / "out" / "samples.npz") as written:
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), written["images"])
    assert not any(part.training for part in model.denoiser.modules())


def test_weights_are_chosen_by_name(finished):
    file = finished / "checkpoints" / "last.ckpt"
    stored = torch.load(file, weights_only=True)
    for name, wanted in (("ema", stored["denoiselab"]["ema"]["ema"]), ("raw", stored["state_dict"])):
        model = denoiselab.load(str(file), name)
        for key, value in model.denoiser.named_parameters():
            assert torch.equal(value, wanted.get(key, wanted.get(f"denoiser.{key}")))
    default, named = denoiselab.load(finished), denoiselab.load(finished, "ema")
    assert all(map(torch.equal, default.denoiser.state_dict().values(), named.denoiser.state_dict().values()))
    with pytest.raises(ValueError, match=r"^weights=emma: unknown; did you mean 'ema'\? allowed: ema, raw\.$"):
        denoiselab.load(finished, "emma")
    assert read_weights(file, None)[1] == "ema"
    assert read(file).names.stored == ["ema", "raw"]


def test_a_damaged_checkpoint_gives_way_with_a_warning(finished, tmp_path):
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last.ckpt"
    shutil.copy(last, last.with_name("last.1.ckpt"))
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged; last\.1\.ckpt is used"):
        denoiselab.load(tmp_path)


def test_a_folder_of_diffusers_is_a_model(pipeline):
    model = denoiselab.load(pipeline)
    theirs = UNet2DModel.from_pretrained(pipeline / "unet").eval()
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    schedule = model.denoiser.schedule
    level = schedule.level(schedule.t_max * torch.ones(()))
    with torch.no_grad():
        assert torch.allclose(model.denoiser(x, level).eps, theirs(x, 999).sample, atol=1e-5)
    images = model.sample(denoiselab.sampler("ddim", steps=2), 2)
    assert (images.dtype, images.shape) == (torch.uint8, (2, *model.shape))
    again = denoiselab.load(str(pipeline), "raw", importer="diffusers").sample(denoiselab.sampler("ddim", steps=2), 2)
    assert torch.equal(images, again)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (["nowhere"], {}, "ckpt=nowhere: no such run directory or checkpoint file."),
        (["{pipeline}"], {"variant": "fp17"}, "import.path="),
        (["{pipeline}"], {"vea": "x"}, "import.vea=x: unknown option; did you mean 'import.vae'?"),
        (["{pipeline}", "ema"], {}, "weights=ema: unknown; allowed: raw."),
        (["{pipeline}"], {"conditioner": {"classes": [1]}}, "conditioner: its options are those of runs"),
        (["{run}"], {"variant": "fp16"}, "variant: is an option of an importer"),
        (["{run}"], {"importer": "edn"}, "import=edn: unknown; did you mean 'edm'?"),
        (["{logs}"], {}, "ckpt="),
    ],
)
def test_what_cannot_be_loaded_gets_a_sentence(arguments, options, sentence, pipeline, finished):
    places = {"pipeline": pipeline, "run": finished, "logs": finished.parent}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        denoiselab.load(*(text.format(**places) for text in arguments), **options)
    assert str(error.value).startswith(sentence)
    if arguments == ["{logs}"]:
        assert "it is no run but holds 1; name one, such as" in str(error.value)


def test_the_sampler_of_a_model_is_any_object(finished):
    sampler = DDIM(denoiselab.spacing("uniform_time"), 3)
    assert torch.equal(denoiselab.load(finished).sample(sampler, 2), denoiselab.load(finished).sample(sampler, [0, 1]))
