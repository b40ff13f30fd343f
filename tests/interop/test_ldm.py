"""Checkpoints of CompVis' code: the images of the same weights in diffusers' pipelines, and what is refused."""

from functools import partial

import compvis
import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from frozen_models import autoencoder, text_encoder
from latent_runs import drawn, ours, scheduler, theirs
from randomised import randomised

import denoiselab
from denoiselab.app.building import imports
from denoiselab.conditioners import Clean
from denoiselab.errors import BadInput
from denoiselab.interop.config_nodes import node
from denoiselab.interop.nvlabs import pickles
from denoiselab.networks import Conditioning

WIDTHS = {"block_out_channels": (32, 64), "norm_num_groups": 32}
PROMPTS = ["a dog", "seven"]
OPTIONS = {"image_size": 4, "linear_start": 0.00085, "linear_end": 0.012}


def network(context, **options):
    given = {
        "layers_per_block": 1,
        "attention_head_dim": 2,  # the number of heads, despite its name
        "sample_size": 4,
        "cross_attention_dim": context,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        **WIDTHS,
        **options,
    }
    return randomised(diffusers.UNet2DConditionModel(**given))


def stable_diffusion(hidden_act, **options):
    encoder, tokenizer = text_encoder(
        hidden_size=64, intermediate_size=64, num_attention_heads=1, hidden_act=hidden_act
    )
    vae = autoencoder("AutoencoderKL", **WIDTHS, scaling_factor=0.5)
    parts = vae, encoder, tokenizer, network(64, **options), scheduler(), None, None
    kind = diffusers.StableDiffusionInpaintPipeline if options.get("in_channels") else diffusers.StableDiffusionPipeline
    return kind(*parts, requires_safety_checker=False), encoder, vae


def latent_diffusion():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + n) for n in range(26))]
    words += [f"##{letter}" for letter in words[5:]]
    tokenizer = transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)}, model_max_length=77)
    config = LDMBertConfig(
        vocab_size=len(words), encoder_layers=2, encoder_ffn_dim=128, encoder_attention_heads=8, head_dim=4, d_model=32
    )
    encoder = randomised(LDMBertModel(config))
    codec = autoencoder("VQModel", **WIDTHS, latent_channels=4, scaling_factor=1.0)
    pipeline = diffusers.LDMTextToImagePipeline(codec, encoder, tokenizer, network(32), scheduler())
    return pipeline, encoder, codec


MODELS = {
    "LDM": (latent_diffusion, compvis.bert, {"height": 32, "width": 32}, {"num_heads": 2}),
    "SD 1": (partial(stable_diffusion, "quick_gelu"), compvis.clip, {}, {"num_heads": 2, "scale_factor": 0.5}),
    "SD 2": (
        partial(stable_diffusion, "gelu", attention_head_dim=(1, 2), use_linear_projection=True),
        compvis.open_clip,
        {},
        {"num_head_channels": 32, "scale_factor": 0.5},
    ),
}


def source(path, tokenizer, **options):
    return node(
        "denoiselab.interop.ldm.checkpoints.Checkpoint",
        path=str(path),
        tokenizer=str(tokenizer),
        **{**OPTIONS, **options},
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_both_layouts_give_the_images_of_diffusers(name, tmp_path, monkeypatch):
    make, names, asked, options = MODELS[name]
    pipeline, encoder, codec = make()
    pipeline.save_pretrained(tmp_path / "pipeline")
    state = compvis.unet(pipeline.unet)
    content = compvis.checkpoint(state, compvis.first_stage(codec), names(encoder))
    torch.save(content, tmp_path / "model.ckpt")
    first = imports.run_directory(
        source(tmp_path / "model.ckpt", tmp_path / "pipeline" / "tokenizer", **options), tmp_path / "logs"
    )
    other = node("denoiselab.interop.diffusers.pipelines.Pipeline", path=str(tmp_path / "pipeline"))
    second = imports.run_directory(other, tmp_path / "logs")
    expected = theirs(pipeline, {"prompt": PROMPTS, "guidance_scale": 3.0, **asked}, monkeypatch)
    (tmp_path / "model.ckpt").unlink()  # the run directories hold all that they need
    found = [ours(run, {"prompts": PROMPTS}, 3.0) for run in (first, second)]
    assert float(expected.std()) > 0.01
    assert float((found[0] - expected).abs().max()) < 1e-4
    assert float((found[1] - expected).abs().max()) < 1e-4
    assert torch.equal(*found)


def test_inpainting_gives_the_images_of_diffusers(tmp_path, monkeypatch):
    pipeline, encoder, vae = stable_diffusion("quick_gelu", in_channels=9, out_channels=4)
    pipeline.save_pretrained(tmp_path / "pipeline")
    content = compvis.checkpoint(compvis.unet(pipeline.unet), compvis.first_stage(vae), compvis.clip(encoder))
    torch.save(content, tmp_path / "model.ckpt")
    words = tmp_path / "pipeline" / "tokenizer"
    options = {**OPTIONS, "num_heads": 2, "scale_factor": 0.5, "tokenizer": str(words)}
    models = [
        denoiselab.load(tmp_path / "model.ckpt", importer="ldm", **options),
        denoiselab.load(tmp_path / "pipeline"),
    ]
    images = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    masked = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masked[0, :, 2:5, 1:7], masked[1, :, :4] = True, True
    kind = diffusers.models.autoencoders.vae  # whose draw from the posterior ours leaves out
    monkeypatch.setattr(kind, "randn_tensor", lambda shape, **_: torch.zeros(shape))
    asked = {"image": images, "mask_image": masked.float(), "height": 8, "width": 8}
    expected = theirs(pipeline, {"prompt": PROMPTS, "guidance_scale": 3.0, **asked}, monkeypatch)
    for model in models:
        parts = model.conditioner.parts
        texts = parts["text"].of(PROMPTS, torch.device("cpu"))
        cond = texts._replace(image=parts["image"].of_images(images, masked).image)
        found = drawn(model, 3.0, cond)
        assert float(found.std()) > 0.01
        assert float((found - expected).abs().max()) < 1e-4
        assert (drawn(model, 3.0, cond._replace(image=-cond.image)) - expected).abs().max() > 1e-2


def written(path, network, condition=None, codec=None, **others):
    """A checkpoint with the first stage of LDM's layout; returns the importer's arguments."""
    vae = autoencoder("AutoencoderKL", **WIDTHS) if codec is None else codec
    torch.save(compvis.checkpoint(network, compvis.first_stage(vae), condition, **others), path)
    return {"importer": "ldm", **OPTIONS}


def test_class_tokens_and_averages(tmp_path):
    theirs, table = network(32), torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    state = compvis.unet(theirs)
    options = written(
        tmp_path / "cin.ckpt",
        state,
        {"embedding.weight": table},
        **compvis.averages(state, 0.5),
        scale_factor=torch.tensor(0.25),
    )
    model = denoiselab.load(tmp_path / "cin.ckpt", weights="raw", num_heads=2, **options)
    x, labels = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 3])
    with torch.no_grad():
        found = model.denoiser.network(x, torch.full((2,), 7.0), Conditioning(class_label=labels))
        expected = theirs(x, 7, encoder_hidden_states=table[labels][:, None]).sample
    assert float((found - expected).abs().max()) < 1e-4
    conditioner = model.conditioner
    assert (conditioner.num_classes, conditioner.null_class) == (3, True)
    assert model.codec.options["scale"] == 0.25
    assert model.sample(denoiselab.sampler("ddim"), 2, steps=2, guidance=2.0, cond=[0, 2]).shape == (2, 1, 8, 8)
    averaged = denoiselab.load(tmp_path / "cin.ckpt", num_heads=2, **options).denoiser.network.state_dict()
    for name, value in model.denoiser.network.state_dict().items():
        assert torch.equal(averaged[name], value if name == "classes.weight" else value * 0.5)


def adm(image_channels=None):
    """LDM's network without transformers, random, and its state in their names."""
    from denoiselab.interop.openai.unets import names
    from denoiselab.interop.weights.layout import Layout
    from denoiselab.interop.weights.unet_names import entries
    from denoiselab.networks import ADMUNet

    options = {"channels": 32, "multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "heads": 2}
    options |= {"shape": [4, 4, 4], "head_channels": None, "scale_shift": True, "block_resampling": True}
    full = {**options, "image_channels": image_channels}
    module = randomised(ADMUNet(**full))
    return module, Layout(ADMUNet, full, entries(full, names(full, new_order=False))).to_theirs(module.state_dict())


@torch.no_grad()
def test_networks_that_take_images(tmp_path):
    x, label = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2)), torch.full((2,), 7.0)
    images = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
    for channels, condition in ((None, None), (1, None), (5, {"encoder.conv_in.weight": torch.zeros(1)})):
        module, state = adm(channels)
        options = written(tmp_path / f"{channels}.ckpt", state, condition)
        model = denoiselab.load(tmp_path / f"{channels}.ckpt", num_heads=2, **options)
        cond = model.conditioner.given(Clean(images, torch.zeros(2, dtype=torch.int64)))
        assert float((model.denoiser.network(x, label, cond) - module(x, label, cond)).abs().max()) < 1e-5
        if channels == 5:  # LDM's order and values: the image's latents, then the mask, -1 where it is known
            assert set(cond.image[:, 4].unique().tolist()) <= {-1.0, 1.0}
            masked = torch.ones(2, 1, 8, 8, dtype=torch.bool)
            assert torch.equal(
                model.conditioner.of_images(images, masked).image[:, :4],
                model.conditioner.of_images(-torch.ones_like(images), ~masked).image[:, :4],
            )


@torch.no_grad()
def test_semantic_maps_are_rescaled_by_the_network(tmp_path):
    module, state = adm(3)
    mapper = torch.randn(3, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    options = written(tmp_path / "maps.ckpt", state, {"channel_mapper.weight": mapper})
    model = denoiselab.load(tmp_path / "maps.ckpt", num_heads=2, **options)
    maps = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(3))
    x, label = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2)), torch.full((2,), 7.0)
    hot = torch.nn.functional.one_hot(maps, 5).permute(0, 3, 1, 2).float()
    image = torch.nn.functional.conv2d(torch.nn.functional.interpolate(hot, scale_factor=0.5, mode="bilinear"), mapper)
    found = model.denoiser.network(x, label, model.conditioner.of(maps, torch.device("cpu")))
    assert float((found - module(x, label, Conditioning(image=image))).abs().max()) < 1e-4
    assert model.sample(denoiselab.sampler("ddim"), 2, steps=2, cond=maps).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="the data have no maps"):
        model.sample(denoiselab.sampler("ddim"), 2, steps=2)
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 4; found \(2, 8, 8\) of float32"):
        model.sample(denoiselab.sampler("ddim"), 2, steps=2, cond=maps.float())


def without(name):
    return lambda state: state.pop(next(key for key in state if name in key))


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (None, {"num_heads": None}, "num_heads=None and num_head_channels=None: set one of them"),
        (None, {"image_size": 0}, "image_size=0: it must be at least 1"),
        (None, {"linear_start": 0.5}, "they must be between 0 and 1, in this order"),
        (None, {"linear_end": 0.02}, "its betas are 1000 from 0.00085 to 0.012, and import gives 1000 from 0.00085 to"),
        (without("diffusion_modelout2bias"), {}, "its averages lack 'model_ema.diffusion_modelout2bias'"),
        (without("model.diffusion_model.out.2.bias"), {}, "lacks 'out.2.bias'"),
        (lambda state: state.update(scale_factor=torch.zeros(2)), {}, "its scale_factor is no positive number"),
        (lambda state: [state.pop(name) for name in list(state) if "first_stage" in name], {}, "begins with 'first_st"),
        (lambda state: state.pop("cond_stage_model.embedding.weight"), {}, "no text encoder in it is known"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, says, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    if change is not None:
        change(content["state_dict"])
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(BadInput, match=says):
        denoiselab.load(tmp_path / "model.ckpt", importer="ldm", **{**OPTIONS, "num_heads": 2, **options})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path, state = tmp_path_factory.mktemp("ldm") / "model.ckpt", compvis.unet(network(32))
    written(path, state, {"embedding.weight": torch.zeros(4, 32)}, **compvis.averages(state, 0.5))
    return path


def test_files_with_objects_and_without_a_tokenizer_are_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "callbacks": {"lr": torch.nn.Identity()}}, tmp_path / "objects.ckpt")
    options = {"importer": "ldm", **OPTIONS, "num_heads": 2}
    with pytest.raises(BadInput, match=r"If you trust its author: python -m .*pickles --trust-pickle"):
        denoiselab.load(tmp_path / "objects.ckpt", **options)
    assert pickles.main(["--trust-pickle", str(tmp_path / "objects.ckpt"), str(tmp_path / "out")]) == 0
    model = denoiselab.load(tmp_path / "out" / "model.safetensors", weights="raw", **options)
    expected = denoiselab.load(checkpoint, weights="raw", **options).denoiser.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.denoiser.state_dict().items())
    pipeline, encoder, _ = latent_diffusion()
    state = compvis.unet(pipeline.unet)
    written(tmp_path / "text.ckpt", state, compvis.bert(encoder))
    with pytest.raises(BadInput, match=r"import.tokenizer=/nowhere: a checkpoint has no tokenizer; give the folder"):
        denoiselab.load(tmp_path / "text.ckpt", tokenizer="/nowhere", **options)
    pipeline.tokenizer.save_pretrained(tmp_path / "words")
    written(tmp_path / "other.ckpt", compvis.unet(network(64)), compvis.bert(encoder))
    options["tokenizer"] = str(tmp_path / "words")
    with pytest.raises(BadInput, match="its texts' tokens have 32 features, and the network takes 64"):
        denoiselab.load(tmp_path / "other.ckpt", **options)


def test_released_models_are_named(invoke, tmp_path):
    result = invoke("sample.py", "ckpt=model:sd_1_6")
    assert result.code == 2
    assert "ckpt=model:sd_1_6: unknown; did you mean 'sd_1_5'? allowed: digits, " in result.last
    result = invoke("sample.py", "ckpt=model:sd_1_5", f"import.path={tmp_path / 'none'}")
    assert f"import.path={tmp_path / 'none'}: there is no such folder" in result.last
    with pytest.raises(BadInput, match="source=model:nothing: unknown; allowed"):
        denoiselab.load("model:nothing")
