import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from denoiselab.codecs import AutoencoderKL, Bijection, Identity, Logit, VQModel, normalisation
from denoiselab.data import from_uint8, to_uint8

TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}


def count(kind, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in kind((3, 256, 256), **options).parameters())


def test_published_sizes():
    """KL-f8's 83.65 M is Stable Diffusion's first stage; VQ-f4's 55.32 M latent-diffusion's."""
    assert count(AutoencoderKL) == 83_653_863
    assert count(VQModel) == 55_322_782


@pytest.mark.parametrize("kind", [AutoencoderKL, VQModel])
def test_any_size_that_the_stride_divides_and_shapes_as_announced(kind):
    torch.manual_seed(0)
    codec = kind((1, 12, 8), **TINY, attention_levels=(1,), latent_channels=2, scale=0.5)
    assert codec.latent_shape == (2, 6, 4)
    x = torch.randn(2, 1, 12, 8)
    raw = codec.encode_pixels(x)
    latents = codec.encode_latents(raw)
    assert latents.shape[1:] == codec.latent_shape
    out = codec.decode(latents)
    assert out.shape == x.shape
    assert bool(out.any())  # no layer starts as zero
    assert codec.decode(codec.encode_latents(codec.encode_pixels(x[:0]))).shape == (0, 1, 12, 8)
    codec.to(memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(codec.decode(codec.encode_latents(codec.encode_pixels(last))), out, atol=1e-5)
    assert codec.decode(torch.randn(1, 2, 3, 5)).shape == (1, 1, 6, 10)


@pytest.mark.parametrize("kind", [AutoencoderKL, VQModel])
def test_compiles_without_graph_breaks_and_autocasts(kind):
    torch.manual_seed(0)
    codec = kind((3, 8, 8), **TINY)
    x = torch.randn(2, 3, 8, 8)

    def both(x):
        return codec.decode(codec.encode_latents(codec.encode_pixels(x)))

    exact = both(x)
    assert torch.allclose(torch.compile(both, backend="eager", fullgraph=True)(x), exact, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        latents = codec.encode_latents(codec.encode_pixels(x))
        rough = codec.decode(latents)
    assert float(((rough - exact).std() / exact.std()).detach()) < 0.1
    assert bool(rough.isfinite().all())


def test_latents_are_of_the_gaussian_of_their_moments():
    """LDM's, whose log-variances are kept from -30 to 20."""
    torch.manual_seed(0)
    codec = AutoencoderKL((3, 8, 8), **TINY, scale=2.0, shift=0.5)
    mean, log_variance, eps = torch.randn(3, 2, *codec.latent_shape)
    log_variance[0, 0, 0, :2] = torch.tensor([-100.0, 100.0])
    std = (log_variance.clamp(-30, 20) / 2).exp()
    drawn = codec.encode_latents(torch.cat((mean, log_variance), dim=1), eps)
    assert torch.allclose(drawn, (mean + std * eps - 0.5) * 2, rtol=1e-6)


def test_scaled_latents_are_undone_by_decode():
    torch.manual_seed(0)
    plain = AutoencoderKL((3, 8, 8), **TINY, scale=1.0)
    scaled = AutoencoderKL((3, 8, 8), **TINY, scale=0.25, shift=0.5)
    scaled.load_state_dict(plain.state_dict())
    moments = plain.encode_pixels(torch.randn(2, 3, 8, 8))
    z = plain.encode_latents(moments)
    assert torch.allclose(scaled.encode_latents(moments), (z - 0.5) / 4)
    assert torch.allclose(scaled.decode((z - 0.5) / 4), plain.decode(z), atol=1e-5)


@pytest.mark.parametrize("kind", [AutoencoderKL, VQModel])
def test_measured_scale_and_shift_normalise_each_channel(kind):
    torch.manual_seed(0)
    sizes = {**TINY, "latent_channels": 3}
    plain = kind((1, 8, 8), **sizes, scale=1.0)
    with torch.no_grad():
        bias = plain.after_encoder.bias
        bias[: len(bias)] = torch.tensor([5.0, -200.0, 1.0, 2.0, -3.0, 0.0])[: len(bias)]
    x = torch.randn(300, 1, 8, 8)
    options = normalisation(plain, x.split(128))
    codec = kind((1, 8, 8), **sizes, **options)
    codec.load_state_dict(plain.state_dict())  # scale and shift are no weights
    with torch.no_grad():
        kept = codec.encode_pixels(x)
        z = codec.encode_latents(kept, torch.randn(300, *codec.latent_shape)).double()
        assert torch.allclose(
            codec.decode(codec.encode_latents(kept)), plain.decode(plain.encode_latents(kept)), atol=1e-4
        )
    error = 1e-3 if kind is VQModel else 0.03  # of a draw: about 1 / sqrt(4800)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=error)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(3, dtype=torch.float64), atol=error)
    with pytest.raises(ValueError, match="there are none"):
        normalisation(plain, [])
    with torch.no_grad():
        plain.after_encoder.weight[1] = 0
        if kind is AutoencoderKL:
            plain.after_encoder.weight[4], bias[4] = 0, -99
    with pytest.raises(ValueError, match="channel 1 of the latents is constant" if kind is VQModel else "channel 1"):
        normalisation(plain, [x])


def one_rank(rank, path, out):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    codec = AutoencoderKL((1, 4, 4), **TINY)
    x = torch.randn(7, 1, 4, 4)
    torch.save((normalisation(codec, x[:4].split(4) if rank == 0 else x[4:].split(1)), codec, x), f"{out}{rank}")
    dist.destroy_process_group()


def test_all_ranks_measure_together(tmp_path):
    on_ranks(one_rank, (tmp_path / "store", str(tmp_path / "out")), 2)
    (found, codec, x), (other, _, _) = (torch.load(tmp_path / f"out{n}", weights_only=False) for n in range(2))
    assert found == other
    alone = normalisation(codec, [x])
    for name, numbers in alone.items():
        assert found[name] == pytest.approx(numbers, rel=1e-6, abs=1e-7)


def test_quantizer_takes_the_nearest_entry_and_passes_gradients():
    torch.manual_seed(0)
    codec = VQModel((3, 8, 8), **TINY, codes=7, code_features=2)
    z = torch.randn(2, 2, 4, 4, requires_grad=True) / 7
    entries = codec.quantizer.codebook.weight
    distances = (z.permute(0, 2, 3, 1)[..., None, :] - entries).square().sum(-1)
    assert torch.equal(codec.quantizer.indices(z), distances.argmin(-1))
    direction = torch.randn(2, 2, 4, 4)
    (gradient,) = torch.autograd.grad((codec.quantizer(z) * direction).sum(), z)
    assert torch.equal(gradient, direction)


@pytest.mark.parametrize("kind", [AutoencoderKL, VQModel])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (3, 9, 8)}, "stride of 2"),
        ({"shape": (3,)}, "shape=.3."),
        ({"groups": 3}, "groups=3"),
        ({"latent_channels": 0}, "latent_channels=0"),
        ({"attention_levels": (2,)}, "attention_levels=.2."),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": [1.0, 2.0], "latent_channels": 3}, "scale: has 2 numbers; give one, or one for each of 3 channels"),
        ({"scale": [1.0, -2.0], "latent_channels": 2}, "scale=.1.0, -2.0.: it must be positive"),
        ({"shift": [0.0, float("nan")], "latent_channels": 2}, "shift=.0.0, nan.: it must be numbers and finite"),
        ({"multipliers": ()}, "multipliers"),
    ],
)
def test_bad_options_are_refused(kind, options, says):
    with pytest.raises(ValueError, match=says):
        kind(**{"shape": (3, 8, 8), **TINY, **options})


@pytest.mark.parametrize("margin", [1e-12, 1e-6, 0.05])
def test_bytes_come_back_from_their_logits(margin):
    codec = Logit((1, 16, 16), margin=margin, scale=0.25)
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    kept = codec.encode_pixels(from_uint8(image))
    latents = codec.encode_latents(kept, torch.randn)
    assert latents.dtype == torch.float32
    assert torch.equal(to_uint8(codec.decode(latents)), image)
    p = margin + (1 - 2 * margin) * (image.double() + 0.5) / 256
    assert torch.allclose(latents.double(), 0.25 * torch.logit(p), atol=1e-6)


def test_dequantised_bytes_and_all_beyond_have_finite_logits():
    codec = Logit((1, 1, 5), margin=1e-6)
    x = torch.tensor([-1.3, -1 - 1 / 255, 0.0, 1 + 1 / 255, 1.3]).view(1, 1, 1, 5)
    ends = torch.tensor(1e-6).double().logit()
    latents = codec.encode_pixels(x)[0, 0, 0]
    assert torch.allclose(latents.double(), ends * torch.tensor([1, 1, 0, -1, -1]), atol=0.1)
    inside = x[..., 1:4]
    assert torch.allclose(codec.decode(latents)[1:4], inside.flatten(), atol=1e-6)
    assert bool((codec.decode(torch.tensor([-99.0, 99.0])).abs() < 1 + 1 / 255 + 1e-5).all())


def test_the_volume_of_logits_is_that_of_their_jacobian():
    torch.manual_seed(0)
    codec = Logit((2, 1, 3), margin=0.01, scale=0.3)
    x = (2 * torch.rand(4, 2, 1, 3, dtype=torch.float64) - 1) * 256 / 255
    for image, volume in zip(x, codec.log_abs_det(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda image: codec.encode_pixels(image[None])[0], image)
        assert float(volume) == pytest.approx(float(jacobian.reshape(6, 6).logdet()), abs=1e-12)
    assert not Identity((2,)).log_abs_det(x).any()
    assert isinstance(codec, Bijection)
    assert not isinstance(AutoencoderKL((3, 8, 8), **TINY), Bijection)


@pytest.mark.parametrize("options", [{"shape": (2,)}, {"margin": 0.0}, {"margin": 0.5}, {"scale": 0.0}])
def test_bad_options_of_logits_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Logit(**{"shape": (1, 8, 8), **options})
