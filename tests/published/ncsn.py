"""NCSN and NCSNv2 as functions of a state dict in their published layouts, in plain operations of torch.

Written from the papers (arXiv 1907.05600, appendix A; arXiv 2006.09011, appendix B) and the layouts' names, to check
our networks and name map against.
"""

import torch.nn.functional as F

# Their levels by name, with width, pooling and dilation.
PLAIN = [("1", 1, False, 1), ("2", 2, True, 1), ("3", 2, False, 2), ("4", 2, False, 4)]
DEEPER = [("1", 1, False, 1), ("2", 2, True, 1), ("3", 2, True, 1), ("4", 4, False, 2), ("5", 4, False, 4)]
DEEPEST = [*DEEPER[:3], ("31", 2, True, 1), *DEEPER[3:]]


def network(w, ngf, levels, x, y=None, noise_levels=None):
    """NCSN's score if `y` `(B,)` is given, else what NCSNv2 divides by sigma; x as it enters the first convolution."""

    def norm(name, h):
        channels = h.shape[1]
        if y is None:
            gamma, alpha, beta = (w.get(f"{name}.{k}", channels)[None] for k in ("gamma", "alpha", "beta"))
        else:
            gamma, alpha, beta = w.get(f"{name}.embed.weight", noise_levels, 3 * channels)[y].split(channels, 1)
        means = h.mean((2, 3))
        centred = means - means.mean(1, keepdim=True)
        plus = centred / (means.var(1, keepdim=True, unbiased=True) + 1e-5).sqrt()
        instance = (h - means[..., None, None]) / (h.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        added = instance + (plus * alpha)[..., None, None]
        return gamma[..., None, None] * added + beta[..., None, None]

    def refined(name, h):
        """A refiner's norm: only NCSN has them."""
        return h if y is None else norm(name, h)

    def conv(name, h, channels, size=3, dilation=1, bias=True):
        weight = w.get(f"{name}.weight", channels, h.shape[1], size, size)
        return F.conv2d(
            h,
            weight,
            w.get(f"{name}.bias", channels) if bias else None,
            padding=size // 2 * dilation,
            dilation=dilation,
        )

    def means(h):
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4

    def units(name, h, count):
        for i in range(1, count + 1):
            residual = h
            for j in (1, 2):
                h = conv(f"{name}.{i}_{j}_conv", F.elu(refined(f"{name}.{i}_{j}_norm", h)), h.shape[1], bias=False)
            h = h + residual
        return h

    def refine(name, inputs, channels, count):
        hs = [units(f"{name}.adapt_convs.{i}", h, 2) for i, h in enumerate(inputs)]
        h = hs[0]
        if len(hs) > 1:
            shape = hs[0].shape[2:]
            hs = [
                conv(f"{name}.msf.convs.{i}", refined(f"{name}.msf.norms.{i}", h), channels) for i, h in enumerate(hs)
            ]
            h = sum(F.interpolate(h, shape, mode="bilinear", align_corners=True) for h in hs)
        h = path = F.elu(h)
        for i in (0, 1):
            path = refined(f"{name}.crp.norms.{i}", path)
            path = F.max_pool2d(path, 5, 1, 2) if y is None else F.avg_pool2d(path, 5, 1, 2)
            path = conv(f"{name}.crp.convs.{i}", path, channels, bias=False)
            h = h + path
        return units(f"{name}.output_convs", h, count)

    h = conv("begin_conv", x, ngf)
    outs = []
    for name, multiplier, pooled, dilation in levels:
        for i in (0, 1):
            here, channels = f"res{name}.{i}", ngf * multiplier
            begins = i == 0 and name != "1"
            first = conv(
                f"{here}.conv1", F.elu(norm(f"{here}.normalize1", h)), h.shape[1] if begins else channels, 3, dilation
            )
            last = F.elu(norm(f"{here}.normalize2", first))
            if begins and pooled:
                last = means(conv(f"{here}.conv2.conv", last, channels))
                h = last + means(conv(f"{here}.shortcut.conv", h, channels, 1))
            elif begins:
                last = conv(f"{here}.conv2", last, channels, 3, dilation)
                h = last + conv(f"{here}.shortcut", h, channels, 3, dilation)
            else:
                h = h + conv(f"{here}.conv2", last, channels, 3, dilation)
        outs.append(h)
    names = [name for name, *_ in levels]
    order = ["1", "2", "31", "3", "4", "5"] if "31" in names else names
    widths = [ngf * multiplier for _, multiplier, *_ in levels]
    for place, name in enumerate(order):
        deep = len(levels) - 1 - place
        inputs = [outs[deep]] if place == 0 else [outs[deep], h]
        h = refine(f"refine{name}", inputs, widths[max(deep - 1, 0)], 1 if deep else 3)
    return conv("end_conv", F.elu(norm("normalizer", h)), x.shape[1])
