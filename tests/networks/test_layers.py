import pytest
import torch
import torch.nn.functional as F

from denoiselab.networks import convolution
from denoiselab.networks.attention import SelfAttention, attend
from denoiselab.networks.convolution import Conv3x3
from denoiselab.networks.embeddings import SinusoidalEmbedding
from denoiselab.networks.layers import NormSiLU, join_image, run
from denoiselab.networks.resampling import Downsample, UpConv2d


@pytest.mark.parametrize("size", [(2, 4), (2, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_of_the_doubled_image(size, layout):
    """Below and above the size from which the doubling is folded into the weight: outputs and all gradients."""
    torch.manual_seed(0)
    batch, side = size
    layer = UpConv2d(3, 5).double().to(memory_format=layout)
    x = torch.randn(batch, 3, side, side, dtype=torch.float64, requires_grad=True)
    want = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layer.weight, layer.bias, padding=1)
    got = layer(x)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    probe = torch.randn_like(want)
    inputs = (x, layer.weight, layer.bias)
    gradients = zip(torch.autograd.grad(got, inputs, probe), torch.autograd.grad(want, inputs, probe), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in gradients)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_wide_convolution_has_torchs_gradients(layout, monkeypatch):
    """Of the first order by its own products; of the second, of whatever torch's has; compiled and checkpointed."""
    monkeypatch.setattr(convolution, "_SLOW", True)
    torch.manual_seed(0)
    layer, plain = Conv3x3(128, 136).to(memory_format=layout), torch.nn.Conv2d(128, 136, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 128, 5, 7).to(memory_format=layout).requires_grad_()
    probe = torch.randn(3, 136, 5, 7)

    def derivatives(call, module):
        out = call(x)
        first = torch.autograd.grad((out * probe).sum(), (x, module.weight, module.bias))
        (slope,) = torch.autograd.grad((call(x).square() * probe).sum(), x, create_graph=True)
        return out, *first, *torch.autograd.grad(slope.square().sum(), (x, module.weight))

    want = derivatives(plain, plain)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert type(layer(x).grad_fn).__name__ == "_ConvolutionBackward"
    for call in (layer, lambda x: run(layer, x, checkpointed=True)):
        for got, exact in zip(derivatives(call, layer), want, strict=True):
            assert torch.allclose(got, exact, rtol=0, atol=1e-5 * exact.abs().max().item())
    assert torch.allclose(compiled(x), want[0], atol=1e-4)
    layer.weight.requires_grad_(False)
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize("transform", ["jvp", "vmap"])
def test_transforms_of_functions_go_through_a_wide_convolution(transform, monkeypatch):
    monkeypatch.setattr(convolution, "_SLOW", True)
    layer, x = Conv3x3(128, 128), torch.randn(2, 128, 4, 4)
    if transform == "jvp":
        out, slope = torch.func.jvp(layer, (x,), (x,))
        assert torch.allclose(slope, out - layer.bias.reshape(-1, 1, 1), atol=1e-4)
    else:
        assert torch.allclose(torch.func.vmap(lambda x: layer(x[None])[0])(x), layer(x), atol=1e-4)
        out = layer(x.requires_grad_())[:, :3].sum((2, 3))
        parts = [torch.autograd.grad(part, layer.weight, retain_graph=True)[0] for part in out.flatten()]
        (together,) = torch.autograd.grad(out.flatten(), layer.weight, torch.eye(6), is_grads_batched=True)
        assert torch.allclose(together, torch.stack(parts), atol=1e-4)


def test_halving_pads_where_tensorflow_does_unless_told_otherwise():
    x = torch.randn(1, 2, 6, 6)
    layer = Downsample(2)
    assert torch.allclose(
        layer(x)[:, :, 0, 0], F.conv2d(x[:, :, :3, :3], layer.conv.weight, layer.conv.bias)[:, :, 0, 0]
    )
    layer = Downsample(2, symmetric=True)
    inner = F.conv2d(x[:, :, 1:4, 1:4], layer.conv.weight, layer.conv.bias)[:, :, 0, 0]
    assert torch.allclose(layer(x)[:, :, 1, 1], inner, atol=1e-6)


def test_norm_and_silu_with_and_without_gradients():
    torch.manual_seed(0)
    layer = NormSiLU(2, 4).double()
    x, scale, shift = (torch.randn(3, 4, 5, 5, dtype=torch.float64) for _ in range(3))
    want = F.silu(F.group_norm(x, 2) * (1 + scale) + shift)
    assert torch.allclose(layer(x, scale, shift), want)
    kept = x.clone()
    with torch.no_grad():
        assert torch.allclose(layer(x, scale, shift), want)
        assert torch.allclose(layer(x), F.silu(F.group_norm(x, 2)))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("shift", [0, 1])
def test_embeddings_are_those_of_diffusers_bit_by_bit(shift):
    from diffusers.models.embeddings import get_timestep_embedding

    label = torch.tensor([0.0, 1.0, 37.5, 999.0])
    for features in (16, 33):
        for first in (False, True):
            want = get_timestep_embedding(label, features, flip_sin_to_cos=first, downscale_freq_shift=shift)
            assert torch.equal(SinusoidalEmbedding(features, shift, first)(label), want)


def test_attention_is_that_of_its_formula_and_masked_keys_do_not_count():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64) for length in (5, 7, 7))
    want = torch.softmax(q @ k.mT / 2, -1) @ v
    assert torch.allclose(attend(q, k, v), want.transpose(1, 2).reshape(2, 5, 12))
    mask = torch.arange(7).expand(2, 7) < 4
    assert torch.allclose(attend(q, k, v, mask), attend(q, k[:, :, :4], v[:, :, :4]))


def test_self_attention_is_torchs_own():
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, heads=4).double()
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    theirs = torch.nn.MultiheadAttention(8, 4, batch_first=True, dtype=torch.float64)
    theirs.in_proj_weight, theirs.in_proj_bias = layer.qkv.weight, layer.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = layer.out.weight, layer.out.bias
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    want = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)
    assert torch.allclose(layer(x), want)


def test_checkpointing_computes_a_function_again():
    calls = []

    def function(x, y):
        calls.append(1)
        return (x * y).sin()

    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    run(function, x, y, checkpointed=True).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        run(function, x, y, checkpointed=True)
    assert len(calls) == 3


def test_an_image_of_the_same_size_is_joined_as_it_is():
    x, image = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    assert torch.equal(join_image(x, image), torch.cat((x, image), 1))
    assert join_image(x, None) is x
