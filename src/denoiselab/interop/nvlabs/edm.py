"""NVlabs' EDM and EDM2, from safetensors and JSON that `denoiselab.interop.nvlabs.pickles` makes of their pickles.

Source of the names and defaults: `training/networks.py` of NVlabs/edm, `training/networks_edm2.py` of NVlabs/edm2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from denoiselab.interop import config_nodes
from denoiselab.interop.config_nodes import Node, node
from denoiselab.interop.imported import Imported, Source, named
from denoiselab.interop.nvlabs.edm2 import edm2_layout
from denoiselab.interop.nvlabs.edm_unets import edm_layout
from denoiselab.interop.nvlabs.pickles import CONFIG, MODEL
from denoiselab.interop.options import positive
from denoiselab.interop.weights.files import read_json, read_tensors
from denoiselab.interop.weights.state_dicts import InteropError, making


@dataclass
class Network(Source):
    """The folder that `denoiselab.interop.nvlabs.pickles` makes of a pickle of EDM or EDM2.

    Of EDM2's latent models it reads the network, not the autoencoder, which is that of Stable Diffusion.

    Args:
        path: The folder.
    """

    path: str

    def read(self) -> Imported:
        folder = Path(self.path).expanduser()
        config = read_json(folder / CONFIG)
        kind, options = str(config.get("class_name")), config.get("init_kwargs")
        known = (*_MEANINGS, "Precond")
        if not isinstance(options, Mapping) or config.get("init_args") or not {*_NEEDED} <= options.keys():
            raise InteropError(f"{folder}: not made by denoiselab.interop.nvlabs.pickles of a network of NVlabs.")
        if kind not in known:
            raise InteropError(f"{folder}: {kind} is not supported; supported: {', '.join(known)}.")
        # The preconditioner may also contain a table, or EDM2's loss weights, which sampling does not need.
        prefix = "unet." if kind == "Precond" else "model."
        state = read_tensors(folder / MODEL)
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        with making(kind, folder / CONFIG):
            layout = edm2_layout(options) if kind == "Precond" else edm_layout(kind, options)
            meaning = _MEANINGS["EDMPrecond" if kind == "Precond" else kind](options)
        weights = layout.to_ours(inner, folder / MODEL)
        without = {} if layout.options.get("null_class", True) else {"null_class": False}
        return Imported(
            named(self.path, folder),
            layout,
            weights,
            meaning.schedule,
            config_nodes.parameterization(meaning.parameterization, **meaning.data),
            config_nodes.denoiser(meaning.label, meaning.variance, meaning.input_scale),
            config_nodes.conditioner(layout.options["num_classes"], dropout=0.0, **without),
            files=[folder / MODEL, folder / CONFIG],
        )


# Arguments without defaults; for the others NVlabs' defaults are used.
_NEEDED = ("img_resolution", "img_channels")


class _Meaning(NamedTuple):
    schedule: Node
    parameterization: str
    label: Node
    data: Mapping[str, float] = {}
    input_scale: Node | None = None
    variance: str | None = None


def _edm(options: Mapping[str, Any]) -> _Meaning:
    """D(x) = c_skip x + c_out F(c_in x), label log(sigma) / 4 (arXiv 2206.00364, table 1)."""
    data: dict[str, Any] = {"sigma_data": positive(options, "sigma_data", 0.5)}
    return _Meaning(
        node("denoiselab.schedules.EDM", sigma_min=0.002, sigma_max=80.0),
        "edm",
        node("denoiselab.denoiser.LogNoise", scale=0.25),
        data,
        node("denoiselab.denoiser.UnitVariance", **data),
    )


def _vp(options: Mapping[str, Any]) -> _Meaning:
    """D(x) = x - sigma F(x / sqrt(1 + sigma^2)), label (M - 1) t."""
    least = float(options.get("beta_min", 0.1))
    return _Meaning(
        node(
            "denoiselab.schedules.VPLinear",
            beta_min=least,
            beta_max=least + float(options.get("beta_d", 19.9)),
            t_min=1e-3,
        ),
        "eps",
        node("denoiselab.denoiser.ScaledTime", scale=float(options.get("M", 1000) - 1)),
    )


def _ve(options: Mapping[str, Any]) -> _Meaning:
    """D(x) = x + sigma F(x), label log(sigma / 2): score SDE's for data in [0, 1]."""
    least, most = float(options.get("sigma_min", 0.02)), float(options.get("sigma_max", 100))
    return _Meaning(
        node("denoiselab.schedules.VEGeometric", sigma_min=least, sigma_max=most),
        "ncsn",
        node("denoiselab.denoiser.LogNoise", scale=1.0, unit=2.0),
    )


def _iddpm(options: Mapping[str, Any]) -> _Meaning:
    """Improved DDPM's chain of cosine betas, label the nearest index."""
    table = config_nodes.betas(
        "cosine",
        steps=int(options.get("M", 1000)),
        s=float(options.get("C_2", 0.008)),
        maximum=1 - float(options.get("C_1", 0.001)),
    )
    return _Meaning(
        config_nodes.chain(table),
        "eps",
        config_nodes.step_index(nearest=True),
        variance="LearnedRange",
    )


_MEANINGS = {"EDMPrecond": _edm, "VPPrecond": _vp, "VEPrecond": _ve, "iDDPMPrecond": _iddpm}
