"""Runs that use frozen models, through the command line: latents, captions, low resolutions."""

import json
import shutil

import numpy as np
import pytest
from conftest import QUICK
from frozen_models import LENGTH, autoencoder, edited, write_text_encoder
from omegaconf import OmegaConf
from PIL import Image

from denoiselab.training.checkpoint_files import read_checkpoint

DIT = ["network=dit_tiny", "network.depth=1", "network.width=24", "network.heads=2"]
TEXT = [*DIT, "conditioner=text", f"conditioner.encoder.length={LENGTH}"]
CAPTIONS = ["data._target_=frozen_models.CaptionedDigits"]
SMALL = ["network=ddpm_tiny", "network.channels=8", "network.groups=4"]
VECTOR = ["conditioner=text_vector", "conditioner.encoder.path=TEXT", f"conditioner.encoder.length={LENGTH}"]
UNET = ["network=adm_upsampler", "network.multipliers=[1,1]", "network.blocks=1", "network.attention_levels=[]"]
UNET += ["network.channels=8", "network.groups=4", "network.head_channels=null", "conditioner=low_resolution"]
MASK = np.repeat(np.array([[255], [0]], np.uint8), [5, 3], axis=0).repeat(8, axis=1)  # two and a half rows of latents
FAST = [argument for argument in QUICK if not argument.startswith("network.")]
FAST += ["callbacks.frontier.every_images=null", "evaluation.nfe=[2]", "logger=none"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    autoencoder("AutoencoderKL").save_pretrained(folder / "vae")
    write_text_encoder(folder)
    return folder


@pytest.fixture
def train(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        run = [f"paths.log_dir={tmp_path / 'logs'}", f"paths.run_dir={tmp_path / 'run'}"]
        return invoke("train.py", *FAST, *run, *arguments)

    return call


def test_a_run_on_latents_writes_images(models, train, invoke, tmp_path):
    shutil.copytree(models / "vae", tmp_path / "vae")
    trained = train(*DIT, "codec=autoencoder_kl", f"codec.path={tmp_path / 'vae'}", "conditioner=label")
    assert trained.code == 0, trained.err
    run = tmp_path / "run"
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert config["network"]["shape"] == [4, 4, 4]
    assert config["data"]["shape"] == [1, 8, 8]
    assert len(config["codec"]["sha256"]) == 64
    names = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert not [name for name in names if "encoder" in name]  # the autoencoder is no part of the model
    result = invoke("sample.py", f"ckpt={run}", "num_samples=3", "sampler.steps=2", "conditioner.classes=[7]")
    assert result.code == 0, result.err
    (samples,) = (run / "samples").glob("ddim_*/")
    with Image.open(samples / "000000.png") as image:
        assert image.size == (8, 8)
        assert image.mode == "L"
    assert json.loads((samples / "samples.json").read_text())["conditioner"]["classes"] == [7]
    (record, *_) = json.loads((run / "frontier.json").read_text())
    assert record["codec_n"] == record["n"] == 8
    assert record["codec_score"] > 0
    assert "the codec's reconstructions of 8 images score" in trained.out
    same = ["num_samples=4", "sampler.steps=2", "format=npz", "task.same_noise=true", "conditioner.classes=[7,3]"]
    for name, given in (("both", same), ("one", [*same[:3], "conditioner.classes=[7]"])):
        result = invoke("sample.py", f"ckpt={run}", *given, f"out={name}", "decode_memory=1")
        assert result.code == 0, result.err
    both, one = (np.load(f"{name}/samples.npz")["images"] for name in ("both", "one"))
    assert np.array_equal(both[::2], one[:2])
    Image.fromarray(MASK).save("mask.png")
    edit = ["task=edit", "num_samples=2", "sampler.steps=2", "format=npz"]
    result = invoke("sample.py", f"ckpt={run}", *edit, "task.mask=mask.png", "strength=1", "out=edit")
    assert result.code == 0, result.err
    ours, given = (np.load(f"edit/{name}samples.npz")["images"][..., 0] for name in ("", "given/"))
    assert np.array_equal(ours[:, MASK > 0], given[:, MASK > 0])
    assert json.loads((tmp_path / "edit" / "samples.json").read_text())["seam"]["known_rmse"] > 0.1
    for number, image in enumerate(given):
        Image.fromarray(image).save(f"edit/given/{number}.png")
    for arguments, says in (
        ([*edit, "sampler=ddpm"], "input is what KLCodec makes of them; give sampler.threshold=null"),
        ([*edit, "images=edit/given"], "conditioner.classes=null: the images have no classes, which the model needs"),
        (
            ["task=export", "task.format=diffusers"],
            "task.format=diffusers: network=DiT: only DDPMUNet, ADMUNet and, on ",
        ),
        (["task=export", "task.format=openai"], "task.format=openai: it has no place for what KLCodec does"),
        (["decode_memory=1e-6"], "decode_memory=1e-06: a tile of 8x8 latents needs "),
        (["task.size=[16,15]"], "task.size=[16,15]: "),
        (["task.size=[16]"], "task.size=[16]: it must be [H,W]"),
        (["task.same_noise=true", "conditioner.classes=[7]"], "task.same_noise=true: this model draws no prompts or"),
        (["sampler=ddpm"], "input is what KLCodec makes of them; give sampler.threshold=null"),
        (["task=likelihood", "task/method=ode"], "this model is one of a codec's latents"),
        (["conditioner.prompts=[a dog]"], "conditioner.prompts=['a dog']: unknown option"),
        (["conditioner.classes=[10]"], "conditioner.classes=[10]: at least one is needed, from 0 to 9"),
        (
            ["conditioner.classes=[1]", "task=frontier"],
            "conditioner.classes=[1]: unknown option; allowed in 'conditioner': ",
        ),
    ):
        few = [] if any(text.startswith("task") for text in arguments) else ["num_samples=2", "sampler.steps=2"]
        result = invoke("sample.py", f"ckpt={run}", *few, *arguments)
        assert result.code == 2
        assert says in result.last
    edited(tmp_path / "vae" / "config.json", scaling_factor=3.0)
    result = invoke("sample.py", f"ckpt={run}", "num_samples=2", "sampler.steps=2")
    assert result.code == 2
    assert f"the files in {tmp_path / 'vae'} have changed" in result.last


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (TEXT, {"token_features"}),
        ([*SMALL, *VECTOR], {"vector_features"}),
        (
            [*TEXT, "conditioner.gives=[tokens,vector]", "network.vector_features=6"],
            {"token_features", "vector_features"},
        ),
    ],
    ids=["tokens", "vector", "both"],
)
def test_a_run_on_captions_draws_prompts(kind, told, models, train, invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "frozen_models.")
    result = train(*kind, *CAPTIONS, "evaluation.guidance=[1,2]", f"conditioner.encoder.path={models / 'text_encoder'}")
    assert result.code == 0, result.err
    run = tmp_path / "run"
    network = OmegaConf.load(run / "config.yaml").network
    assert {name for name in ("token_features", "vector_features") if network.get(name) == 6} == told
    names = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert not [name for name in names if "encoder" in name]
    drawn = ["num_samples=2", "sampler.steps=2", "guidance=2", "format=npz"]
    (tmp_path / "prompts.txt").write_text("nine\na dog\n")
    for prompts in ([], ["conditioner.prompts=[a dog, seven]"], ["conditioner.prompts_file=prompts.txt"]):
        result = invoke("sample.py", f"ckpt={run}", *drawn, *prompts)
        assert result.code == 0, result.err
    records = [json.loads(path.read_text()) for path in (run / "samples").glob("ddim_*/samples.json")]
    told = sorted(str(record["conditioner"]["prompts"]) for record in records)
    assert told == ["None", "['a dog', 'seven']", "['nine', 'a dog']"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["codec=autoencoder_kl"], ["codec.path: is not given"]),
        (["codec=autoencoder_kl", "codec.path=/nowhere"], ["codec.path=/nowhere: does not exist"]),
        (["codec=vq", "codec.path=VAE"], ["AutoencoderKL", "choose codec=autoencoder_kl"]),
        (["codec=vq", "codec.path=TEXT"], ["codec.path=", "holds no autoencoder"]),
        (["codec=autoencoder_kl", "codec.path=VAE", "data=two_moons"], ["1 channels", "data.shape=[2]"]),
        (["network=ncsnv2", "conditioner=label"], ["conditioner: NCSNv2 takes no classes", "conditioner=none"]),
        (["codec=logit", "evaluation.samplers=[ddim,ddpm]"], ["evaluation.samplers: ddpm", "what Logit", "ancestral"]),
        ([*DIT, "codec=autoencoder_kl", "codec.path=VAE", "method=vlb"], ["decoder@objective.decoder=real"]),
        (["codec=autoencoder"], ["codec=autoencoder", "did you mean 'autoencoder_kl'"]),
        ([*TEXT], ["conditioner.encoder.path: is not given"]),
        ([*TEXT, "conditioner.encoder.path=/nowhere"], ["conditioner.encoder.path=/nowhere: does not exist"]),
        ([*TEXT, "conditioner.encoder.path=VAE"], ["states no hidden_size"]),
        ([*TEXT, "conditioner.encoder.path=TEXT"], ["the data set has no captions"]),
        ([*TEXT, "conditioner.encoder.path=TEXT", "conditioner.encoder.length=9"], ["at most 8 tokens"]),
        (
            [*TEXT, "conditioner.encoder.path=TEXT", "network.token_features=5"],
            ["network: its sizes do not fit", "tokens of shape [8, 6]"],
        ),
        ([*DIT, "conditioner=text_transformer"], ["the data set has no captions"]),
        (
            [*DIT, "conditioner=text_transformer", "conditioner.encoder.tokenizer.path=/no"],
            ["path=/no: there is no such"],
        ),
        ([*VECTOR, "network=uvit_tiny"], ["conditioner: UViT takes no vectors"]),
        ([*VECTOR, "conditioner.gives=[word]"], ["gives=['word']: it must be [tokens], [vector] or [tokens,vector]"]),
        ([*VECTOR, "conditioner.gives=[tokens]", *CAPTIONS], ["it gives mask, tokens, but network takes vector"]),
        ([*VECTOR, "network.vector_features=5", *CAPTIONS], ["sizes do not fit", "vector of shape [6]"]),
        ([*UNET, "conditioner.factor=3"], ["factor=3", "divide 8 and 8"]),
        (
            [*UNET, "conditioner.factor=2", "data.validation=0"],
            ["held-out data, and there are none"],
        ),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_is_refused_before_training(arguments, says, models, train, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISELAB_ALLOW", "frozen_models.")
    places = {"VAE": models / "vae", "TEXT": models / "text_encoder"}
    for word, place in places.items():
        arguments = [argument.replace(f"={word}", f"={place}") for argument in arguments]
    result = train(*arguments)
    assert result.code == 2, result.err
    for text in says:
        assert text in result.last
    assert not (tmp_path / "run").exists()


def test_an_upsampler_trains_and_samples_held_out_images(train, invoke, tmp_path):
    result = train(*UNET, "conditioner.factor=2")
    assert result.code == 0, result.err
    result = invoke("sample.py", f"ckpt={tmp_path / 'run'}", "num_samples=2", "sampler.steps=2")
    assert result.code == 0, result.err
    result = invoke("sample.py", f"ckpt={tmp_path / 'run'}", "num_samples=2", "sampler.steps=2", "guidance=2")
    assert result.code == 2
    assert "guidance=2: the model was trained without" in result.last
