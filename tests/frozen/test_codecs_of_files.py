"""Frozen autoencoders against diffusers' own."""

import diffusers
import pytest
import torch
from frozen_models import autoencoder, edited

from denoiselab.frozen import DCCodec, KLCodec, TinyCodec, VQCodec
from denoiselab.frozen.autoencoders import latent_shape, write
from denoiselab.noise import Noise

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def normal(shape):
    return Noise(3, torch.arange(5)).normal(shape)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    theirs = {"vae": autoencoder("AutoencoderKL", scaling_factor=0.5), "vqvae": autoencoder("VQModel")}
    for name, model in theirs.items():
        model.save_pretrained(folder / name)
    return folder, theirs


@torch.no_grad()
def test_latents_and_images_are_those_of_diffusers(models):
    folder, theirs = models
    for name, kind in (("vae", KLCodec), ("vqvae", VQCodec)):
        model, codec = theirs[name], kind(str(folder / name), (1, 8, 8), batch_size=2)
        encoded = model.encode(X)
        if name == "vae":
            posterior = encoded.latent_dist
            z = posterior.mean + posterior.std * normal((4, 4, 4))
        else:
            z = encoded.latents
        kept = codec.encode_pixels(X)
        latents = codec.encode_latents(kept, normal)
        torch.testing.assert_close(latents, z * model.config.scaling_factor)
        torch.testing.assert_close(codec.decode(latents), model.decode(z).sample, atol=1e-5, rtol=1e-5)
        assert latents.shape[1:] == codec.latent_shape == tuple(latent_shape(str(folder / name), (1, 8, 8)))


@torch.no_grad()
def test_our_own_format_holds_the_same(models, tmp_path):
    codec = KLCodec(str(models[0] / "vae"), (1, 8, 8))
    module = codec.read()
    write(tmp_path / "own", type(module), codec.options, module.state_dict())
    own = KLCodec(str(tmp_path / "own"), (1, 8, 8), scale=0.1)
    kept = own.encode_pixels(X)
    assert torch.equal(kept, codec.encode_pixels(X))
    torch.testing.assert_close(own.encode_latents(kept, normal), codec.encode_latents(kept, normal) / 5)
    assert KLCodec(str(tmp_path / "own"), (1, 16, 8)).latent_shape == (4, 8, 4)
    channels = KLCodec(str(tmp_path / "own"), (1, 8, 8), scale=[0.1, 0.2, 0.5, 1.0], posterior="mean")
    mean = kept[:, :4] * torch.tensor([0.1, 0.2, 0.5, 1.0]).view(-1, 1, 1)
    torch.testing.assert_close(channels.encode_latents(kept, normal), mean)
    write(tmp_path / "again", type(module), channels.options, module.state_dict())
    assert torch.equal(KLCodec(str(tmp_path / "again"), (1, 8, 8), posterior="mean").encode_latents(kept, normal), mean)
    with pytest.raises(ValueError, match="posterior=median: it must be draw or mean"):
        KLCodec(str(tmp_path / "own"), (1, 8, 8), posterior="median")
    half = (tmp_path / "own" / "model.safetensors").read_bytes()[:1000]
    (tmp_path / "own" / "model.safetensors").write_bytes(half)
    with pytest.raises(ValueError, match="damaged or truncated"):
        KLCodec(str(tmp_path / "own"), (1, 8, 8)).load()
    for strange in ({"shape": 5}, {"shape": [1, 8, 8], "scale": "x"}, {"scale": 1.0, "unknown": 1}):
        edited(tmp_path / "own" / "config.json", **strange)
        with pytest.raises(
            ValueError, match=r"^path=.*own/config\.json: no AutoencoderKL can be built from it: [^\n]*\.$"
        ):
            KLCodec(str(tmp_path / "own"), (1, 8, 8))


TINY = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
    "in_channels": 1,
    "out_channels": 1,
}
DC = {
    "in_channels": 1,
    "latent_channels": 8,
    **{f"{side}_block_out_channels": (4, 8) for side in ("encoder", "decoder")},
    **{f"{side}_layers_per_block": (1, 1) for side in ("encoder", "decoder")},
    **{f"{side}_qkv_multiscales": ((), ()) for side in ("encoder", "decoder")},
    "scaling_factor": 0.5,
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("theirs", "options", "kind", "shape"),
    [(diffusers.AutoencoderTiny, TINY, TinyCodec, (4, 4, 4)), (diffusers.AutoencoderDC, DC, DCCodec, (8, 4, 4))],
)
def test_codecs_without_draws_are_those_of_diffusers_and_keep_in_our_format(theirs, options, kind, shape, tmp_path):
    torch.manual_seed(0)
    model = theirs(**options).eval()
    model.save_pretrained(tmp_path / "theirs")
    codec = kind(str(tmp_path / "theirs"), (1, 8, 8), batch_size=2)
    assert codec.latent_shape == shape == tuple(latent_shape(str(tmp_path / "theirs"), (1, 8, 8)))
    z = model.encode(X)[0]
    latents = codec.encode_latents(codec.encode_pixels(X), normal)
    torch.testing.assert_close(latents, z * model.config.scaling_factor, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode(latents), model.decode(z).sample, atol=1e-5, rtol=1e-5)
    codec.write(tmp_path / "own")
    own = kind(str(tmp_path / "own"), (1, 8, 8))
    own.spare_encoder()
    assert torch.equal(own.decode(latents[:2]), codec.decode(latents[:2]))
    assert own.decode_within(1e9) is None
    with pytest.raises(ValueError, match=rf"choose codec={kind.choice}"):
        KLCodec(str(tmp_path / "own"), (1, 8, 8))


def test_what_is_no_such_autoencoder_is_refused(models, tmp_path):
    vae = str(models[0] / "vae")
    with pytest.raises(ValueError, match=r"path=/nowhere: does not exist"):
        KLCodec("/nowhere", (1, 8, 8))
    with pytest.raises(ValueError, match=r"choose codec=autoencoder_kl"):
        VQCodec(vae, (1, 8, 8))
    with pytest.raises(ValueError, match=r"1 channels; those of data.shape=\[3, 8, 8\] do not"):
        KLCodec(vae, (3, 8, 8))
    with pytest.raises(ValueError, match="does not divide images of 7x8"):
        KLCodec(vae, (1, 7, 8))
    with pytest.raises(ValueError, match="have changed"):
        KLCodec(vae, (1, 8, 8), sha256="0" * 64).load()
    for name, content in (("empty", {}), ("unet", {"_class_name": "UNet2DModel"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        edited(tmp_path / name / "config.json", **content)
        with pytest.raises(ValueError, match="autoencoder"):
            KLCodec(str(tmp_path / name), (1, 8, 8))
