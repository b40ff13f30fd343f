"""Score SDE's `ncsnpp` as a function of a state dict in its published layout, in plain operations of torch.

Written from the paper (arXiv 2011.13456, appendix H) and the layout's names, to check our network and its name map
against; slow, and unlike ours in how it resamples, attends and keeps its weights.
"""

import itertools
import math

import torch
import torch.nn.functional as F

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def upfirdn(x, up, down, before, after, gain):
    """Zeros between pixels, zeros around, the filter, every `down`-th pixel: StyleGAN2's definition, axis by axis."""
    for axis in (-1, -2):
        x = x.movedim(axis, -1)
        stuffed = torch.zeros(*x.shape, up, dtype=x.dtype)
        stuffed[..., 0] = x
        padded = F.pad(stuffed.flatten(-2), (before, after))
        windows = padded.unfold(-1, 4, 1)  # (..., n, 4)
        x = (windows * TAPS.flip(0).to(x)).sum(-1)[..., ::down] * gain
        x = x.movedim(-1, axis)
    return x


def conv(w, name, x, channels, size=3, padding=1, **options):
    weight = w.get(f"{name}.weight", channels, x.shape[1], size, size)
    return F.conv2d(x, weight, w.get(f"{name}.bias", channels), padding=padding, **options)


def linear(w, name, x, features):
    return x @ w.get(f"{name}.weight", features, x.shape[1]).T + w.get(f"{name}.bias", features)


def norm(w, name, x):
    groups = min(x.shape[1] // 4, 32)
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
    out = ((grouped - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    scale, shift = w.get(f"{name}.weight", x.shape[1]), w.get(f"{name}.bias", x.shape[1])
    return out * scale[:, None, None] + shift[:, None, None]


def nin(w, name, x, channels):
    out = torch.einsum("bchw,cd->bdhw", x, w.get(f"{name}.W", x.shape[1], channels))
    return out + w.get(f"{name}.b", channels)[:, None, None]


def network(w, config, x, label):
    """The output before its division by sigma; `label` is log sigma (fourier) or an index (positional)."""
    m = config["model"]
    nf, mult, per_level = m["nf"], m["ch_mult"], m["num_res_blocks"]
    rescale = 2**-0.5 if m["skip_rescale"] else 1.0
    biggan, fir = m["resblock_type"] == "biggan", m["fir"]
    number = itertools.count()

    def layer():
        return f"all_modules.{next(number)}"

    def down(x):
        return upfirdn(x, 1, 2, 1, 1, 1) if fir else x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-3, -1))

    def up(x):
        return upfirdn(x, 2, 1, 2, 1, 2) if fir else x.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def down_conv(x, channels):
        name = layer()
        if not fir:
            return conv(w, f"{name}.Conv_0", F.pad(x, (0, 1, 0, 1)), channels, padding=0, stride=2)
        filtered = upfirdn(x, 1, 1, 2, 2, 1)
        return conv(w, f"{name}.Conv2d_0", filtered, channels, padding=0)[..., ::2, ::2]

    def up_conv(x, channels):
        name = layer()
        if not fir:
            return conv(w, f"{name}.Conv_0", up(x), channels)
        # Zeros between the pixels, the convolution, the filter; nothing is cut off between.
        stuffed = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        stuffed[..., ::2, ::2] = x
        bias = w.get(f"{name}.Conv2d_0.bias", channels)
        weight = w.get(f"{name}.Conv2d_0.weight", channels, x.shape[1], 3, 3)
        wide = F.conv2d(F.pad(stuffed, (4, 4, 4, 4)), weight, padding=1)
        return upfirdn(wide, 1, 1, 2, 1, 2)[..., 4:-4, 4:-4] + bias[:, None, None]

    def block(x, channels, resample=None):
        name = layer()
        h = F.silu(norm(w, f"{name}.GroupNorm_0", x))
        entering = x.shape[1]
        if resample:
            h, x = resample(h), resample(x)
        h = (
            conv(w, f"{name}.Conv_0", h, channels)
            + linear(w, f"{name}.Dense_0", F.silu(temb), channels)[..., None, None]
        )
        h = conv(w, f"{name}.Conv_1", F.silu(norm(w, f"{name}.GroupNorm_1", h)), channels)
        if resample or entering != channels:
            x = conv(w, f"{name}.Conv_2", x, channels, 1, 0) if biggan else nin(w, f"{name}.NIN_0", x, channels)
        return (x + h) * rescale

    def attention(x):
        name, channels = layer(), x.shape[1]
        h = norm(w, f"{name}.GroupNorm_0", x)
        q, k, v = (nin(w, f"{name}.NIN_{i}", h, channels).flatten(2) for i in range(3))
        weights = (torch.einsum("bcq,bck->bqk", q, k) / math.sqrt(channels)).softmax(-1)
        h = torch.einsum("bqk,bck->bcq", weights, v).reshape(x.shape)
        return (x + nin(w, f"{name}.NIN_3", h, channels)) * rescale

    def read(h, channels):
        h = F.silu(norm(w, layer(), h))
        return conv(w, layer(), h, channels)

    if m["embedding_type"] == "fourier":
        angles = 2 * math.pi * label[:, None] * w.get(f"{layer()}.W", nf)
    else:
        angles = label[:, None] * 10000 ** (-torch.arange(nf // 2) / (nf // 2 - 1))
    temb = linear(w, layer(), torch.cat((angles.sin(), angles.cos()), 1), 4 * nf)
    temb = linear(w, layer(), F.silu(temb), 4 * nf)

    pyramid = x
    skips = [conv(w, layer(), x, nf)]
    for level, multiplier in enumerate(mult):
        for _ in range(per_level):
            h = block(skips[-1], nf * multiplier)
            skips.append(attention(h) if h.shape[-1] in m["attn_resolutions"] else h)
        if level < len(mult) - 1:
            h, channels = skips[-1], nf * multiplier
            h = block(h, channels, down) if biggan else down_conv(h, channels)
            if m["progressive_input"] == "input_skip":
                pyramid = down(pyramid)
                entering = conv(w, f"{layer()}.Conv", pyramid, channels, 1, 0)
                h = torch.cat((entering, h), 1) if m["progressive_combine"] == "cat" else entering + h
            elif m["progressive_input"] == "residual":
                h = pyramid = (down_conv(pyramid, channels) + h) * rescale
            skips.append(h)
    h = skips[-1]
    h = block(h, h.shape[1])
    h = attention(h)
    h = block(h, h.shape[1])
    pyramid = None
    for level, multiplier in reversed(list(enumerate(mult))):
        for _ in range(per_level + 1):
            h = block(torch.cat((h, skips.pop()), 1), nf * multiplier)
        if h.shape[-1] in m["attn_resolutions"]:
            h = attention(h)
        if m["progressive"] == "output_skip":
            pyramid = read(h, x.shape[1]) if pyramid is None else up(pyramid) + read(h, x.shape[1])
        elif m["progressive"] == "residual":
            if pyramid is None:
                pyramid = read(h, h.shape[1])
            else:
                h = pyramid = (up_conv(pyramid, h.shape[1]) + h) * rescale
        if level:
            h = block(h, h.shape[1], up) if biggan else up_conv(h, h.shape[1])
    assert not skips
    return pyramid if m["progressive"] == "output_skip" else read(h, x.shape[1])
