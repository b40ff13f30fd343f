"""The samplers of diffusers' schedulers as options of `sample.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Options = list[str]


def sampling(config: Config) -> Options:
    """The options of `sample.py` that sample as a scheduler of this configuration does; none if there are none."""
    rules = {
        "DDIMScheduler": _ddim,
        "DDPMScheduler": _ddpm,
        "PNDMScheduler": _pndm,
        "DPMSolverMultistepScheduler": _dpm_solver,
        "UniPCMultistepScheduler": _unipc,
    }
    rule = rules.get(str(config.get("_class_name")))
    return [] if rule is None else rule(config)


def _ddim(config: Config) -> Options:
    """DDIM clips x0, and adds the unclipped eps."""
    grid = _grid(config, to_one=bool(config.get("set_alpha_to_one", True)))
    return ["sampler=ddim", *grid, *_clip(config, "clip_keep_eps")] if grid else []


def _ddpm(config: Config) -> Options:
    """If its last index is not 0, DDPM adds noise to the samples."""
    large = {"fixed_small": "0.0", "fixed_large": "1.0", "learned_range": "null"}.get(
        str(config.get("variance_type", "fixed_small")).removesuffix("_log")
    )
    if large is None or config.get("timestep_spacing", "leading") != "leading" or config.get("steps_offset"):
        return []
    return ["sampler=ancestral", f"sampler.large={large}", *_grid(config), *_clip(config, "clip")]


def _pndm(config: Config) -> Options:
    """Its step to clean data extrapolates over past predictions, which no sampler here does."""
    grid = [] if config.get("set_alpha_to_one") else _grid(config, to_one=False)
    return [f"sampler={'plms' if config.get('skip_prk_steps') else 'fpndm'}", *grid] if grid else []


def _dpm_solver(config: Config) -> Options:
    """The order decreases at the end of runs of less than 15 steps; order 3 is as released."""
    order, kind = int(config.get("solver_order", 2)), str(config.get("algorithm_type", "dpmsolver++"))
    names = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde", "dpmsolver": "dpm_solver_2m"}
    heun = config.get("solver_type", "midpoint") == "heun"
    grid, wrong_sign = _between_grid(config), kind.startswith("sde") and order == 3
    if kind not in names or config.get("euler_at_final") or wrong_sign or not grid:
        return []
    options = [f"sampler={names[kind]}", f"sampler.order={order}", *grid]
    options.append(f"sampler.published={'true' if not heun or order == 3 else 'false'}")
    options.append(f"sampler.taylor={str(heun).lower()}")
    return [*options, f"sampler.lower_order_final={15 if config.get('lower_order_final', True) else 'false'}"]


def _unipc(config: Config) -> Options:
    """Its step to clean data is defined only for x0, B2 and order 1."""
    grid = _between_grid(config)
    known = config.get("solver_type", "bh2") == "bh2" and config.get("predict_x0", True) and not config.get("solver_p")
    if not known or not config.get("lower_order_final", True) or not grid:
        return []
    options = ["sampler=unipc", f"sampler.order={int(config.get('solver_order', 2))}", *grid]
    skipped = config.get("disable_corrector") or []
    return [*options, f"sampler.skip=[{','.join(map(str, skipped))}]"] if skipped else options


def _between_grid(config: Config) -> Options:
    """The grid of the schedulers that step in sigma; none if its levels are not trained ones."""
    grids = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
    spacing = str(config.get("timestep_spacing", "linspace"))
    first = float(config.get("lambda_min_clipped", -math.inf))
    if (
        any(config.get(name) for name in grids)
        or config.get("thresholding")
        or config.get("final_sigmas_type", "zero") != "zero"
        or spacing not in ("linspace", "leading", "trailing")
    ):
        return []
    if spacing == "trailing":  # its stride ignores the clipping of lambda
        return [] if first > -math.inf else ["spacing@sampler.spacing=trailing", "sampler.spacing.first_lam=-inf"]
    options = ["spacing@sampler.spacing=without_last", f"spacing@sampler.spacing.spacing={spacing}"]
    if spacing == "leading":
        options.append(f"sampler.spacing.spacing.offset={int(config.get('steps_offset', 0))}")
    return [*options, f"sampler.spacing.first_lam={first}"]


def _grid(config: Config, *, to_one: bool = True) -> Options:
    """A grid of trained levels, to clean data or to the first level; none if the steps do not share levels."""
    spacing, offset = config.get("timestep_spacing", "leading"), int(config.get("steps_offset", 0))
    first = "sampler.spacing.first_lam=-inf"
    if spacing == "leading" and to_one:
        return ["spacing@sampler.spacing=leading", f"sampler.spacing.offset={offset}", first]
    if spacing == "leading":
        return ["spacing@sampler.spacing=latent_diffusion", f"sampler.spacing.spacing.offset={offset}", first]
    return ["spacing@sampler.spacing=trailing", first] if spacing == "trailing" and to_one else []


def _clip(config: Config, name: str) -> Options:
    """The options of clipping or thresholding."""
    if config.get("thresholding"):
        most = float(config.get("sample_max_value", 1.0))
        ratio = float(config.get("dynamic_thresholding_ratio", 0.995))
        options = ["threshold@sampler.threshold=dynamic", f"sampler.threshold.ratio={ratio}"]
        keep = [f"sampler.threshold.keep_eps={str(name == 'clip_keep_eps').lower()}"]
        return [*options, f"sampler.threshold.most={most}", *keep]
    if not config.get("clip_sample", True):
        return []
    bound = float(config.get("clip_sample_range", 1.0))
    return [f"threshold@sampler.threshold={name}", f"sampler.threshold.bound={bound}"]
