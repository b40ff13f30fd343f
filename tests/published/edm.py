"""The networks of EDM and EDM2 as functions of a state dict in their published layouts, in plain operations of torch.

Written from the papers (arXiv 2206.00364, appendix F; arXiv 2312.02696, figure 21 and its equations) and the layouts'
names, to check our networks and name maps against.
"""

import math

import torch
import torch.nn.functional as F
from published.score_sde import upfirdn


def conv(w, name, x, channels, size=3):
    weight = w.get(f"{name}.weight", channels, x.shape[1], size, size)
    return F.conv2d(x, weight, w.get(f"{name}.bias", channels), padding=size // 2)


def linear(w, name, x, features, bias=True):
    out = x @ w.get(f"{name}.weight", features, x.shape[1]).T
    return out + w.get(f"{name}.bias", features) if bias else out


def norm(w, name, x, eps):
    channels = x.shape[1]
    grouped = x.reshape(len(x), min(32, channels // 4), -1)
    grouped = grouped - grouped.mean(-1, keepdim=True)
    out = (grouped / (grouped.square().mean(-1, keepdim=True) + eps).sqrt()).reshape(x.shape)
    return out * w.get(f"{name}.weight", channels)[:, None, None] + w.get(f"{name}.bias", channels)[:, None, None]


def resampled(x, mode, fir):
    if mode is None:
        return x
    if fir:
        return upfirdn(x, 1, 2, 1, 1, 1) if mode == "down" else upfirdn(x, 2, 1, 2, 1, 2)
    if mode == "down":
        return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-3, -1))
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def heads_of(x, heads):
    """(B, 3 C, H, W), whose channels are (head, feature, qkv), as q, k, v of (B, N, D, H W)."""
    return x.reshape(len(x), heads, -1, 3, x.shape[2] * x.shape[3]).unbind(3)


def attention(q, k, v, shape):
    weights = (torch.einsum("bncq,bnck->bnqk", q, k) / math.sqrt(q.shape[2])).softmax(-1)
    return torch.einsum("bnqk,bnck->bncq", weights, v).reshape(shape)


def block(w, name, x, embedding, channels, song, mode=None, heads=0, fir=False):
    eps, scale = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
    entering = x.shape[1]
    h = conv(w, f"{name}.conv0", resampled(F.silu(norm(w, f"{name}.norm0", x, eps)), mode, fir), channels)
    told = linear(w, f"{name}.affine", embedding, channels * (1 if song else 2))[..., None, None]
    if song:
        h = F.silu(norm(w, f"{name}.norm1", h + told, eps))
    else:
        h = F.silu(norm(w, f"{name}.norm1", h, eps) * (1 + told[:, :channels]) + told[:, channels:])
    h = conv(w, f"{name}.conv1", h, channels)
    x = resampled(x, mode, fir)
    if entering != channels or (mode and song):
        x = conv(w, f"{name}.skip", x, channels, 1)
    x = (x + h) * scale
    if heads:
        q, k, v = heads_of(conv(w, f"{name}.qkv", norm(w, f"{name}.norm2", x, eps), 3 * channels, 1), heads)
        x = (x + conv(w, f"{name}.proj", attention(q, k, v, x.shape), channels, 1)) * scale
    return x


def song(w, c, x, label, classes=None, augmentation=None):
    """`classes` are one-hot, `(B, N)`; zeros are no class."""
    size, nf, mult, fir = c["img_resolution"], c["model_channels"], c["channel_mult"], c["resample_filter"] != [1, 1]
    features = nf * c["channel_mult_noise"]
    half = features // 2
    if c["embedding_type"] == "fourier":
        angles = 2 * math.pi * label[:, None] * w.get("map_noise.freqs", half)
    else:
        angles = label[:, None] * 10000 ** (-torch.arange(half) / (half - 1))
    e = torch.cat((angles.sin(), angles.cos()), 1)
    if c["label_dim"]:
        e = e + linear(w, "map_label", classes * math.sqrt(c["label_dim"]), features)
    if c["augment_dim"]:
        weight = w.get("map_augment.weight", features, c["augment_dim"])
        e = e if augmentation is None else e + augmentation @ weight.T
    e = F.silu(linear(w, "map_layer0", e, 4 * nf))
    e = F.silu(linear(w, "map_layer1", e, 4 * nf))
    skips, side = [conv(w, f"enc.{size}x{size}_conv", x, nf)], x
    for level, multiplier in enumerate(mult):
        res = f"{size >> level}x{size >> level}"
        if level:
            h = block(w, f"enc.{res}_down", skips[-1], e, skips[-1].shape[1], True, "down", fir=fir)
            if c["encoder_type"] == "skip":
                side = resampled(side, "down", fir)
                h = h + conv(w, f"enc.{res}_aux_skip", side, h.shape[1], 1)
            elif c["encoder_type"] == "residual":
                name, channels = f"enc.{res}_aux_residual", h.shape[1]
                weight = w.get(f"{name}.weight", channels, side.shape[1], 3, 3)
                wide = F.conv2d(F.pad(side, (2, 2, 2, 2)), weight)  # at full resolution, then the filter
                side = upfirdn(wide, 1, 2, 0, 0, 1) + w.get(f"{name}.bias", channels)[:, None, None]
                h = side = (h + side) / math.sqrt(2)
            skips.append(h)
        heads = int(size >> level in c["attn_resolutions"])
        for i in range(c["num_blocks"]):
            skips.append(block(w, f"enc.{res}_block{i}", skips[-1], e, nf * multiplier, True, heads=heads))
    h, out = skips[-1], None
    for level, multiplier in reversed(list(enumerate(mult))):
        res = f"{size >> level}x{size >> level}"
        if level == len(mult) - 1:
            h = block(w, f"dec.{res}_in0", h, e, h.shape[1], True, heads=1)
            h = block(w, f"dec.{res}_in1", h, e, h.shape[1], True)
        else:
            h = block(w, f"dec.{res}_up", h, e, h.shape[1], True, "up", fir=fir)
        for i in range(c["num_blocks"] + 1):
            heads = int(i == c["num_blocks"] and size >> level in c["attn_resolutions"])
            h = block(w, f"dec.{res}_block{i}", torch.cat((h, skips.pop()), 1), e, nf * multiplier, True, heads=heads)
        if c["decoder_type"] == "skip" or level == 0:
            read = F.silu(norm(w, f"dec.{res}_aux_norm", h, 1e-6))
            read = conv(w, f"dec.{res}_aux_conv", read, c["img_channels"])
            out = read if out is None else resampled(out, "up", fir) + read
    return out


def dhariwal(w, c, x, label, classes=None, outputs=1):
    size, nf, mult = c["img_resolution"], c["model_channels"], c["channel_mult"]
    angles = label[:, None] * 10000 ** (-torch.arange(nf // 2) / (nf // 2))
    e = F.silu(linear(w, "map_layer0", torch.cat((angles.cos(), angles.sin()), 1), 4 * nf))
    e = linear(w, "map_layer1", e, 4 * nf)
    if c["label_dim"]:
        e = e + linear(w, "map_label", classes, 4 * nf, bias=False)
    e = F.silu(e)
    skips = [conv(w, f"enc.{size}x{size}_conv", x, nf * mult[0])]
    for level, multiplier in enumerate(mult):
        res, width = f"{size >> level}x{size >> level}", nf * multiplier
        if level:
            skips.append(block(w, f"enc.{res}_down", skips[-1], e, skips[-1].shape[1], False, "down"))
        heads = width // 64 if size >> level in c["attn_resolutions"] else 0
        for i in range(c["num_blocks"]):
            skips.append(block(w, f"enc.{res}_block{i}", skips[-1], e, width, False, heads=heads))
    h = skips[-1]
    for level, multiplier in reversed(list(enumerate(mult))):
        res, width = f"{size >> level}x{size >> level}", nf * multiplier
        if level == len(mult) - 1:
            h = block(w, f"dec.{res}_in0", h, e, h.shape[1], False, heads=h.shape[1] // 64)
            h = block(w, f"dec.{res}_in1", h, e, h.shape[1], False)
        else:
            h = block(w, f"dec.{res}_up", h, e, h.shape[1], False, "up")
        heads = width // 64 if size >> level in c["attn_resolutions"] else 0
        for i in range(c["num_blocks"] + 1):
            h = block(w, f"dec.{res}_block{i}", torch.cat((h, skips.pop()), 1), e, width, False, heads=heads)
    return conv(w, "out_conv", F.silu(norm(w, "out_norm", h, 1e-5)), outputs * c["img_channels"])


def unit(x, axes):
    """x over its root mean square."""
    return x / (1e-4 + x.square().mean(axes, keepdim=True).sqrt())


def mp_layer(w, name, x, channels, size=None):
    kernel = () if size is None else (size, size)
    weight = w.get(f"{name}.weight", channels, x.shape[1], *kernel)
    weight = unit(weight, tuple(range(1, weight.ndim))) / math.sqrt(weight[0].numel())
    return x @ weight.T if size is None else F.conv2d(x, weight, padding=size // 2)


def mp_silu(x):
    return F.silu(x) / 0.596


def mp_sum(a, b, t):
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b, t):
    na, nb = a.shape[1], b.shape[1]
    c = math.sqrt((na + nb) / ((1 - t) ** 2 + t**2))
    return torch.cat((c / math.sqrt(na) * (1 - t) * a, c / math.sqrt(nb) * t * b), 1)


def mp_block(w, c, name, x, embedding, channels, decoder, mode=None, heads=0):
    x = resampled(x, mode, False)
    entering = x.shape[1]
    if not decoder:
        x = unit(mp_layer(w, f"{name}.conv_skip", x, channels, 1) if entering != channels else x, 1)
    h = mp_layer(w, f"{name}.conv_res0", mp_silu(x), channels, 3)
    gain = 1 + w.get(f"{name}.emb_gain") * mp_layer(w, f"{name}.emb_linear", embedding, channels)
    h = mp_layer(w, f"{name}.conv_res1", mp_silu(h * gain[..., None, None]), channels, 3)
    if decoder and entering != channels:
        x = mp_layer(w, f"{name}.conv_skip", x, channels, 1)
    x = mp_sum(x, h, c["res_balance"])
    if heads:
        q, k, v = (unit(part, 2) for part in heads_of(mp_layer(w, f"{name}.attn_qkv", x, 3 * channels, 1), heads))
        h = mp_layer(w, f"{name}.attn_proj", attention(q, k, v, x.shape), channels, 1)
        x = mp_sum(x, h, c["attn_balance"])
    return x.clip(-c["clip_act"], c["clip_act"])


def edm2(w, c, x, label, classes=None):
    size, widths = c["img_resolution"], [c["model_channels"] * m for m in c["channel_mult"]]
    noise, features = widths[0], max(widths)
    angles = label[:, None] * w.get("emb_fourier.freqs", noise) + w.get("emb_fourier.phases", noise)
    e = mp_layer(w, "emb_noise", math.sqrt(2) * angles.cos(), features)
    if c["label_dim"]:
        e = mp_sum(e, mp_layer(w, "emb_label", classes * math.sqrt(c["label_dim"]), features), c["label_balance"])
    e = mp_silu(e)
    ones = torch.ones_like(x[:, :1])
    skips = [mp_layer(w, f"enc.{size}x{size}_conv", torch.cat((x, ones), 1), widths[0], 3)]
    per_head = c["channels_per_head"]
    for level, width in enumerate(widths):
        res = f"{size >> level}x{size >> level}"
        if level:
            skips.append(mp_block(w, c, f"enc.{res}_down", skips[-1], e, skips[-1].shape[1], False, "down"))
        heads = width // per_head if size >> level in c["attn_resolutions"] else 0
        for i in range(c["num_blocks"]):
            skips.append(mp_block(w, c, f"enc.{res}_block{i}", skips[-1], e, width, False, heads=heads))
    h = skips[-1]
    for level, width in reversed(list(enumerate(widths))):
        res = f"{size >> level}x{size >> level}"
        if level == len(widths) - 1:
            h = mp_block(w, c, f"dec.{res}_in0", h, e, h.shape[1], True, heads=h.shape[1] // per_head)
            h = mp_block(w, c, f"dec.{res}_in1", h, e, h.shape[1], True)
        else:
            h = mp_block(w, c, f"dec.{res}_up", h, e, h.shape[1], True, "up")
        heads = width // per_head if size >> level in c["attn_resolutions"] else 0
        for i in range(c["num_blocks"] + 1):
            h = mp_cat(h, skips.pop(), c["concat_balance"])
            h = mp_block(w, c, f"dec.{res}_block{i}", h, e, width, True, heads=heads)
    return w.get("out_gain") * mp_layer(w, "out_conv", h, c["img_channels"], 3)
