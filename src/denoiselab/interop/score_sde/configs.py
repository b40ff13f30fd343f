"""The configuration files of score_sde_pytorch's NCSN++, DDPM++ and DDPM, reduced to what the weights need.

Source: github.com/yang-song/score_sde_pytorch, folder configs/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CIFAR10 = {
    "data": {"image_size": 32, "num_channels": 3, "centered": False},
    "training": {"sde": "vesde", "continuous": True},
    "model": {
        "name": "ncsnpp",
        "sigma_min": 0.01,
        "sigma_max": 50.0,
        "num_scales": 1000,
        "beta_min": 0.1,
        "beta_max": 20.0,
        "dropout": 0.1,
        "embedding_type": "fourier",
        "scale_by_sigma": True,
        "nonlinearity": "swish",
        "nf": 128,
        "ch_mult": [1, 2, 2, 2],
        "num_res_blocks": 4,
        "attn_resolutions": [16],
        "resamp_with_conv": True,
        "conditional": True,
        "fir": True,
        "fir_kernel": [1, 3, 3, 1],
        "skip_rescale": True,
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_input": "residual",
        "progressive_combine": "sum",
        "fourier_scale": 16,
    },
}


# Their `ddpm` is `ncsnpp` with these choices, which its configuration files do not contain.
DDPM: dict[str, Any] = {
    "embedding_type": "positional",
    "fir": False,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": False,
    "resblock_type": "ddpm",
    "progressive": "none",
    "progressive_input": "none",
    "progressive_combine": "sum",
    "fourier_scale": 16,
}


def _changed(
    base: Mapping[str, Any], *, image_size: int = 0, sde: str = "", continuous: bool | None = None, **model: Any
) -> dict[str, Any]:
    data, training = dict(base["data"]), dict(base["training"])
    if image_size:
        data["image_size"] = image_size
    if sde:
        training["sde"] = sde
        data["centered"] = sde != "vesde"
    if continuous is not None:
        training["continuous"] = continuous
    return {"data": data, "training": training, "model": {**base["model"], **model}}


_DDPMPP = _changed(
    _CIFAR10, sde="vpsde", embedding_type="positional", scale_by_sigma=False, fir=False, progressive_input="none"
)
_256 = _changed(
    _CIFAR10,
    image_size=256,
    sigma_max=348.0,
    num_scales=2000,
    dropout=0.0,
    ch_mult=[1, 1, 2, 2, 2, 2, 2],
    num_res_blocks=2,
    progressive="output_skip",
    progressive_input="input_skip",
)
_LSUN = _changed(_256, sigma_max=378.0)
_1024 = _changed(
    _256,
    image_size=1024,
    sigma_max=1348.0,
    nf=16,
    ch_mult=[1, 2, 4, 8, 16, 32, 32, 32],
    num_res_blocks=1,
)
_NCSNPP_VP = _changed(_CIFAR10, sde="vpsde", embedding_type="positional", scale_by_sigma=False)
_DDPM = _changed(_CIFAR10, sde="vpsde", name="ddpm", scale_by_sigma=False, num_res_blocks=2, **DDPM)
_DDPM_256 = _changed(_DDPM, image_size=256, continuous=False, dropout=0.0, ch_mult=[1, 1, 2, 2, 4, 4])

# By file name.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "ve/cifar10_ncsnpp": _changed(_CIFAR10, continuous=False, embedding_type="positional"),
    "ve/cifar10_ncsnpp_continuous": _CIFAR10,
    "ve/cifar10_ncsnpp_deep_continuous": _changed(_CIFAR10, num_res_blocks=8),
    "ve/bedroom_ncsnpp_continuous": _LSUN,
    "ve/church_ncsnpp_continuous": _changed(_256, sigma_max=380.0),
    "ve/ffhq_256_ncsnpp_continuous": _256,
    "ve/celebahq_256_ncsnpp_continuous": _256,
    "ve/ffhq_ncsnpp_continuous": _1024,
    "ve/celebahq_ncsnpp_continuous": _1024,
    "ve/cifar10_ddpm": _changed(_DDPM, sde="vesde", continuous=False, scale_by_sigma=True),
    "vp/cifar10_ncsnpp": _changed(_NCSNPP_VP, continuous=False),
    "vp/cifar10_ncsnpp_continuous": _NCSNPP_VP,
    "vp/cifar10_ncsnpp_deep_continuous": _changed(_NCSNPP_VP, num_res_blocks=8),
    "vp/cifar10_ddpmpp": _changed(_DDPMPP, continuous=False),
    "vp/cifar10_ddpmpp_continuous": _DDPMPP,
    "vp/cifar10_ddpmpp_deep_continuous": _changed(_DDPMPP, num_res_blocks=8),
    "vp/ddpm/cifar10": _changed(_DDPM, continuous=False),
    "vp/ddpm/cifar10_continuous": _DDPM,
    "vp/ddpm/church": _DDPM_256,
    "vp/ddpm/celebahq": _DDPM_256,
    "subvp/cifar10_ncsnpp_deep_continuous": _changed(_NCSNPP_VP, sde="subvpsde", num_res_blocks=8),
    "subvp/cifar10_ddpm_continuous": _changed(_DDPM, sde="subvpsde"),
    "subvp/cifar10_ddpmpp_continuous": _changed(_DDPMPP, sde="subvpsde"),
    "subvp/cifar10_ddpmpp_deep_continuous": _changed(_DDPMPP, sde="subvpsde", num_res_blocks=8),
}
