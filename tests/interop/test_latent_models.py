"""Latent diffusion's networks against diffusers' own, with random weights, through their real files."""

import inspect
import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from denoiselab.codecs import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from denoiselab.interop import InteropError
from denoiselab.interop.diffusers import autoencoders, deterministic
from denoiselab.interop.diffusers.config_defaults import DEFAULTS
from denoiselab.interop.diffusers.dit import dit
from denoiselab.interop.diffusers.pipeline_parts import codec
from denoiselab.interop.diffusers.pipelines import Pipeline, read_model
from denoiselab.interop.diffusers.unet_text import unet_condition
from denoiselab.interop.weights.files import read_json, read_weights, weights_file
from denoiselab.networks import Conditioning, DiT, TextUNet

UNET = {
    "sample_size": (8, 4),
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
}
UNETS = {
    "first": UNET,
    "second": {
        **UNET,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "layers_per_block": 2,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "inpainting": {**UNET, "in_channels": 9, "num_class_embeds": 3},
    "variance": {**UNET, "out_channels": 8},
}
DITS = {
    "patch 2": {"sample_size": 8, "out_channels": 8},
    "patch 4": {"sample_size": 8, "patch_size": 4, "in_channels": 3, "norm_eps": 1e-6},
}
KL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
}
ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
}
KLS = {
    "f2": KL,
    "no quantisation": {
        **KL,
        **ATTENTION,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latent_channels": 2,
        "layers_per_block": 2,
        "scaling_factor": 0.3,
        "shift_factor": 0.1,
    },
    "a channel": {**KL, "latents_mean": [-1.5, 0.25, 0.0, 2.0], "latents_std": [0.5, 2.0, 4.0, 1.0]},
}
VQS = {
    "f2": {**KL, "mid_block_add_attention": False},
    "codes": {**KL, **ATTENTION, "vq_embed_dim": 5, "num_vq_embeddings": 16, "scaling_factor": 2.0},
}
TINY = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 0, 1),
}
BLOCKS = ("ResBlock", "ResBlock", "EfficientViTBlock")
DC = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    **{f"{side}_block_types": BLOCKS for side in ("encoder", "decoder")},
    **{f"{side}_block_out_channels": (4, 8, 16) for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": ((), (), (5,)) for side in ("encoder", "decoder")},
    "encoder_layers_per_block": (1, 2, 1),
    "decoder_layers_per_block": (2, 1, 2),
}
# As in SANA's, and as in those of DC-AE's ImageNet models, which have no layers at the finest level.
DETERMINISTIC = {
    "small": (diffusers.AutoencoderTiny, {**TINY, "scaling_factor": 0.5, "shift_factor": 0.1}),
    "sana": (
        diffusers.AutoencoderDC,
        {**DC, "downsample_block_type": "conv", "upsample_block_type": "interpolate", "scaling_factor": 0.41407},
    ),
    "imagenet": (
        diffusers.AutoencoderDC,
        {
            **DC,
            **{f"{side}_qkv_multiscales": ((), (), ()) for side in ("encoder", "decoder")},
            "encoder_layers_per_block": (0, 1, 1),
            "decoder_layers_per_block": (0, 2, 1),
            "decoder_norm_types": ("batch_norm", "batch_norm", "rms_norm"),
            "decoder_act_fns": ("relu", "relu", "silu"),
        },
    ),
}
LABEL, CLASSES = torch.tensor([3.0, 987.0]), torch.tensor([0, 2])


def randomised(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def imported(model, layout_of, folder):
    """Ours, from the files that theirs writes."""
    model.save_pretrained(folder)
    layout = layout_of(read_json(folder / "config.json"))
    weights = weights_file(folder)
    ours = layout.module(**layout.options).eval()
    ours.load_state_dict(layout.to_ours(read_weights(weights), weights))
    return ours, layout


def exported(ours, layout, theirs, folder):
    """Theirs, with our weights under their names."""
    kind = type(theirs)
    theirs.save_config(folder)
    state = {name: tensor.contiguous().clone() for name, tensor in layout.to_theirs(ours.state_dict()).items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    model, report = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def assert_equal(found, expected):
    """Within 1e-5 of the expected tensor's standard deviation."""
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.std())


def assert_same_gradients(ours, theirs, layout, run_ours, run_theirs, tied=()):
    """Gradients of a random linear function of the outputs, in double precision, for every parameter of theirs.

    `tied` are parts of names whose parameters are copies of one of ours: theirs are to be summed.
    """
    ours.double(), theirs.double()
    out = run_theirs()
    direction = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    (out * direction).sum().backward()
    (run_ours() * direction).sum().backward()
    found = layout.to_theirs(gradients(ours))
    expected = gradients(theirs)
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        part = next((t for t in tied if t in name), None)
        if part is not None:
            gradient = sum(g for other, g in expected.items() if other.split(part)[-1] == name.split(part)[-1])
        # Attention does not change with a bias of its keys; a codebook learns from losses of its own.
        idle = name.endswith(("to_k.bias", "quantize.embedding.weight"))
        assert (float(gradient.abs().max()) > 1e-8 * scale) != idle, name
        assert torch.allclose(found[name], gradient, rtol=1e-6, atol=1e-12 * scale), name


def gradients(model):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", UNETS)
def test_unet_with_text_equals_diffusers_both_ways(name, tmp_path):
    theirs = randomised(diffusers.UNet2DConditionModel(**UNETS[name]))
    ours, layout = imported(theirs, unet_condition, tmp_path / "theirs")
    assert isinstance(ours, TextUNet)
    x, tokens = torch.randn(2, 4, 8, 4), torch.randn(2, 5, 6)
    extra = torch.randn(2, 5, 8, 4) if name == "inpainting" else None
    classes = CLASSES if name == "inpainting" else None
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])

    def run_ours(m=ours, mask=mask):
        dtype = next(m.parameters()).dtype
        image = None if extra is None else extra.to(dtype)
        return m(x.to(dtype), LABEL.to(dtype), Conditioning(classes, None, tokens.to(dtype), mask, image))

    def run_theirs(m=theirs, mask=mask):
        whole = (x if extra is None else torch.cat((x, extra), dim=1)).to(m.dtype)
        return m(whole, LABEL, tokens.to(m.dtype), class_labels=classes, encoder_attention_mask=mask).sample

    assert_equal(run_ours(), run_theirs())
    assert_equal(run_ours(mask=None), run_theirs(mask=None))
    back = exported(ours, layout, theirs, tmp_path / "back")
    assert_equal(run_theirs(back), run_theirs())
    again, _ = imported(back, unet_condition, tmp_path / "again")
    assert_equal(run_ours(again), run_ours())
    assert_same_gradients(ours, theirs, layout, run_ours, run_theirs)


@pytest.mark.parametrize("name", DITS)
def test_dit_equals_diffusers_both_ways(name, tmp_path):
    options = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "num_embeds_ada_norm": 5,
        **DITS[name],
    }
    theirs = randomised(diffusers.DiTTransformer2DModel(**options))
    # As published, all blocks hold copies of one embedding.
    first = theirs.transformer_blocks[0].norm1.emb.state_dict()
    theirs.transformer_blocks[1].norm1.emb.load_state_dict(first)
    ours, layout = imported(theirs, dit, tmp_path / "theirs")
    assert isinstance(ours, DiT)
    x = torch.randn(2, options.get("in_channels", 4), 8, 8)

    def run_ours(m=ours):
        dtype = next(m.parameters()).dtype
        return m(x.to(dtype), LABEL.to(dtype), Conditioning(CLASSES))

    def run_theirs(m=theirs):
        return m(x.to(m.dtype), LABEL, CLASSES).sample

    assert_equal(run_ours(), run_theirs())
    back = exported(ours, layout, theirs, tmp_path / "back")
    assert_equal(run_theirs(back), run_theirs())
    assert_same_gradients(ours, theirs, layout, run_ours, run_theirs, tied=("norm1.emb.",))


# What facebook/DiT-XL-2-256 says beside its sizes.
PUBLISHED = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "upcast_attention": False,
    "use_linear_projection": False,
}


def test_a_dit_by_its_published_name_equals_what_diffusers_makes_of_it(tmp_path):
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 5}
    made = randomised(diffusers.DiTTransformer2DModel(**sizes, sample_size=8, out_channels=8))
    made.transformer_blocks[1].norm1.emb.load_state_dict(made.transformer_blocks[0].norm1.emb.state_dict())
    made.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, **sizes, "sample_size": 8}))
    theirs = diffusers.Transformer2DModel.from_pretrained(tmp_path).eval()
    layout, weights, _ = read_model(tmp_path)
    ours = layout.module(**layout.options).eval()
    ours.load_state_dict(weights)
    x = torch.randn(2, 4, 8, 8)
    assert_equal(ours(x, LABEL, Conditioning(CLASSES)), theirs(x, timestep=LABEL, class_labels=CLASSES).sample)
    for change, says in (
        (
            {"norm_type": "ada_norm_single"},
            r"config\.json: norm_type=ada_norm_single: this is PixArt's transformer",
        ),
        ({"norm_type": "layer_norm"}, "norm_type=layer_norm: it must be ada_norm_zero"),
        ({"cross_attention_dim": 8}, "cross_attention_dim=8: it must be None"),
        ({"double_self_attention": True}, "double_self_attention=True: it must be False"),
        ({"interpolation_scale": 2}, "interpolation_scale=2"),
        ({"patch_size": None}, "patch_size=None: it must be a whole number"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm=None"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**PUBLISHED, **sizes, "sample_size": 8, **change}))
        with pytest.raises(InteropError, match=says):
            read_model(tmp_path)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_field_that_is_left_out_has_diffusers_default(kind):
    signature = inspect.signature(getattr(diffusers, kind).__init__).parameters
    theirs = {name: parameter.default for name, parameter in signature.items() if name != "self"}
    assert theirs == DEFAULTS[kind]


def test_unknown_fields_are_named_and_those_of_averages_are_not(caplog):
    average = {"decay": 0.999, "optimization_step": 10, "use_ema_warmup": True, "min_decay": 0.0}
    plain = unet_condition({**UNET, **average, "_name_or_path": "x", "newer": None}).options
    assert not caplog.records
    assert unet_condition({**UNET, "newer": 3}).options == plain
    assert "ignored, as diffusers does: newer=3" in caplog.text


def test_a_dit_whose_blocks_have_embeddings_of_their_own_is_refused(tmp_path):
    options = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 5}
    with pytest.raises(InteropError, match="differ between blocks"):
        imported(randomised(diffusers.DiTTransformer2DModel(**options)), dit, tmp_path)


@pytest.mark.parametrize("name", KLS)
def test_autoencoder_kl_equals_diffusers_both_ways(name, tmp_path):
    theirs = randomised(diffusers.AutoencoderKL(**KLS[name]))
    ours, layout = imported(theirs, autoencoders.autoencoder_kl, tmp_path / "theirs")
    x, eps = torch.randn(2, 3, 16, 16), torch.randn(2, *ours.latent_shape)
    scale, shift = KLS[name].get("scaling_factor", 0.18215), KLS[name].get("shift_factor", 0.0)
    if "latents_mean" in KLS[name]:  # as the pipelines of Stable Diffusion XL apply them
        shift, std = (torch.tensor(KLS[name][f"latents_{what}"]).view(-1, 1, 1) for what in ("mean", "std"))
        scale = scale / std
    gaussian = theirs.encode(x).latent_dist
    drawn = (gaussian.mean + gaussian.std * eps - shift) * scale
    assert_equal(ours.encode_latents(ours.encode_pixels(x), eps), drawn)
    assert_equal(ours.encode_latents(ours.encode_pixels(x)), (gaussian.mode() - shift) * scale)
    assert_equal(ours.decode(drawn), theirs.decode(drawn / scale + shift).sample)

    def run_ours(m=ours):
        dtype = next(m.parameters()).dtype
        return m.decode(m.encode_latents(m.encode_pixels(x.to(dtype)), eps.to(dtype)))

    def run_theirs(m=theirs):
        latent = m.encode(x.to(m.dtype)).latent_dist
        return m.decode(latent.mean + latent.std * eps.to(m.dtype)).sample

    back = exported(ours, layout, theirs, tmp_path / "back")
    assert_equal(run_theirs(back), run_theirs())
    assert_same_gradients(ours, theirs, layout, run_ours, run_theirs)


@pytest.mark.parametrize("name", VQS)
def test_vq_model_equals_diffusers_both_ways(name, tmp_path):
    theirs = randomised(diffusers.VQModel(**VQS[name]))
    x = torch.randn(2, 3, 16, 16)
    z = theirs.encode(x).latents.detach()
    vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
    theirs.quantize.embedding.weight.data.copy_(vectors[torch.randint(128, (theirs.config.num_vq_embeddings,))])
    ours, layout = imported(theirs, autoencoders.vq_model, tmp_path / "theirs")
    scale = VQS[name].get("scaling_factor", 0.18215)
    assert z.shape[1:] == ours.latent_shape
    assert_equal(ours.encode_latents(ours.encode_pixels(x)), z * scale)
    entries, _, (_, _, indices) = theirs.quantize(z)
    assert len(indices.unique()) > 5
    assert torch.equal(ours.quantizer.indices(z).flatten(), indices)
    assert_equal(ours.quantizer(z), entries)
    assert_equal(ours.quantizer.entries(ours.quantizer.indices(z)), entries)
    assert_equal(ours.decode(z * scale), theirs.decode(z).sample)

    def run_ours(m=ours):
        return m.decode(m.encode_latents(m.encode_pixels(x.to(m.quantizer.codebook.weight.dtype))))

    def run_theirs(m=theirs):
        return m.decode(m.encode(x.to(m.dtype)).latents).sample

    back = exported(ours, layout, theirs, tmp_path / "back")
    assert_equal(run_theirs(back), run_theirs())
    assert_same_gradients(ours, theirs, layout, run_ours, run_theirs)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("size", [(8, 8), (20, 12)])
def test_deterministic_autoencoders_equal_diffusers_both_ways(name, size, tmp_path, caplog):
    kind, options = DETERMINISTIC[name]
    theirs = randomised(kind(**options))
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    layout_of = deterministic.autoencoder_tiny if name == "small" else deterministic.autoencoder_dc
    ours, layout = imported(theirs, layout_of, tmp_path / "theirs")
    assert isinstance(ours, AutoencoderTiny if name == "small" else AutoencoderDC)
    assert not caplog.records
    x = torch.randn(2, 3, *size)
    encoded = theirs.encode(x)
    z = (encoded.latents if name == "small" else encoded.latent).detach()
    scale, shift = options.get("scaling_factor", 1.0), options.get("shift_factor", 0.0)
    assert ours.scale == scale
    assert_equal(ours.encode_latents(ours.encode_pixels(x)), (z - shift) * scale)
    assert_equal(ours.decode((z - shift) * scale), theirs.decode(z).sample)
    node, shape = codec(tmp_path / "theirs", [4, 5, 3])
    assert (node["_target_"], shape) == (f"denoiselab.frozen.{'Tiny' if name == 'small' else 'DC'}Codec", [3, 20, 12])
    if name != "imagenet":  # whose batch norms have counters, which ours leave out
        back = exported(ours, layout, theirs, tmp_path / "back")
        assert_equal(back.decode(z).sample, theirs.decode(z).sample)


@pytest.mark.parametrize(
    ("layout_of", "config", "change", "says"),
    [
        (unet_condition, UNET, {"addition_embed_type": "text_time"}, "addition_embed_type=text_time"),
        (unet_condition, UNET, {"sample_size": None}, "sample_size"),
        (unet_condition, UNET, {"norm_eps": 1e-6}, "norm_eps=1e-06"),
        (unet_condition, UNET, {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")}, "AttnDownBlock2D"),
        (unet_condition, UNET, {"up_block_types": ("UpBlock2D", "UpBlock2D")}, "mirror"),
        (unet_condition, UNET, {"block_out_channels": (8, 12)}, "multiple"),
        (unet_condition, UNET, {"layers_per_block": (1, 2)}, "layers_per_block"),
        (unet_condition, UNET, {"out_channels": 6}, "out_channels=6"),
        (dit, {}, {"norm_type": "ada_norm_single"}, "norm_type"),
        (dit, {}, {"out_channels": 6}, "out_channels=6"),
        (autoencoders.autoencoder_kl, KL, {"latents_mean": [0.0]}, "latents_mean"),
        (
            autoencoders.autoencoder_kl,
            KL,
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1},
            "shift_factor=0.1",
        ),
        (autoencoders.autoencoder_kl, KL, {"use_quant_conv": False}, "use_post_quant_conv"),
        (autoencoders.autoencoder_kl, KL, {"out_channels": 1}, "out_channels=1"),
        (autoencoders.vq_model, KL, {"norm_type": "spatial"}, "norm_type=spatial"),
        (deterministic.autoencoder_tiny, TINY, {"act_fn": "gelu"}, "act_fn=gelu"),
        (deterministic.autoencoder_tiny, TINY, {"decoder_block_out_channels": (8, 8, 16)}, "block_out_channels"),
        (deterministic.autoencoder_dc, DC, {"decoder_block_out_channels": (4, 8, 32)}, "decoder_block_out_channels"),
        (deterministic.autoencoder_dc, DC, {"decoder_act_fns": ("relu", "silu", "silu")}, "decoder_act_fns"),
        (deterministic.autoencoder_dc, DC, {"upsample_block_type": "interpolate"}, "upsample_block_type"),
        (deterministic.autoencoder_dc, DC, {"encoder_out_shortcut": False}, "encoder_out_shortcut=False"),
    ],
)
def test_what_has_no_counterpart_is_refused(layout_of, config, change, says):
    with pytest.raises(InteropError, match=says):
        layout_of({**config, **change})


FULL = {
    "Stable Diffusion 1": (unet_condition, diffusers.UNet2DConditionModel, {"cross_attention_dim": 768}, 859_520_964),
    "DiT-XL/2": (dit, diffusers.DiTTransformer2DModel, {"out_channels": 8}, None),
    "KL-f8": (
        autoencoders.autoencoder_kl,
        diffusers.AutoencoderKL,
        {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        },
        83_653_863,
    ),
    "TAESD": (deterministic.autoencoder_tiny, diffusers.AutoencoderTiny, {}, 2_445_063),
    "DC-AE f32c32 of SANA": (
        deterministic.autoencoder_dc,
        diffusers.AutoencoderDC,
        {
            **{
                f"{side}_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3 for side in ("encoder", "decoder")
            },
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "scaling_factor": 0.41407,
        },
        312_250_275,
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_of_the_full_size_fit(name):
    layout_of, kind, options, count = FULL[name]
    with torch.device("meta"):
        theirs = kind(**({"sample_size": 64} if "sample_size" in DEFAULTS[kind.__name__] else {}), **options)
    layout = layout_of(dict(theirs.config))
    expected = layout.to_theirs(layout.skeleton())
    assert {n: tensor.shape for n, tensor in expected.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert count is None or sum(t.numel() for t in layout.skeleton().values()) == count


def test_models_of_a_pipeline_are_read_by_the_names_of_their_classes(tmp_path):
    vae = randomised(diffusers.AutoencoderKL(**KL))
    vae.save_pretrained(tmp_path / "vae")
    layout, state, _ = read_model(tmp_path / "vae")
    assert layout.module is AutoencoderKL
    # Files from before diffusers 0.15, Stable Diffusion 1's among them, have other names in attention.
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    old = load_file(path)
    for present, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {name.replace(present, former): tensor for name, tensor in old.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in old
    save_file(old, path)
    _, again, _ = read_model(tmp_path / "vae")
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_dit_pipeline_is_imported_with_its_chain_and_classes(tmp_path):
    options = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_embeds_ada_norm": 5}
    randomised(diffusers.DiTTransformer2DModel(**options, out_channels=8)).save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler(prediction_type="epsilon").save_pretrained(tmp_path / "scheduler")
    config = Pipeline(str(tmp_path)).read().config()
    assert config["network"]["_target_"] == "denoiselab.networks.DiT"
    assert config["denoiser"]["variance"]["_target_"] == "denoiselab.variances.LearnedRange"
    assert config["conditioner"]["num_classes"] == 5
