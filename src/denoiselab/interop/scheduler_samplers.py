"""The samplers of diffusers' schedulers, as options of `sample.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
Options = list[str]


def sampling(config: Config) -> Options:
    """The options of `sample.py` with which a model is sampled as by a scheduler; none where no sampler is equal to it.

    Args:
        config: Content of a `scheduler_config.json`.
    """
    rules = {
        "DDIMScheduler": _ddim,
        "DDPMScheduler": _ddpm,
        "PNDMScheduler": _pndm,
        "DPMSolverMultistepScheduler": _dpm_solver,
    }
    rule = rules.get(str(config.get("_class_name")))
    # Their dynamic thresholding has a limit that ours lacks.
    return [] if rule is None or config.get("thresholding") else rule(config)


def _ddim(config: Config) -> Options:
    """x0 is clipped, and the unclipped eps added."""
    grid = _grid(config, to_one=bool(config.get("set_alpha_to_one", True)))
    return ["sampler=ddim", *grid, *_clip(config, "clip_keep_eps")] if grid else []


def _ddpm(config: Config) -> Options:
    """From a last index that is not 0 it adds noise to the samples."""
    large = {"fixed_small": "0.0", "fixed_large": "1.0", "learned_range": "null"}.get(
        str(config.get("variance_type", "fixed_small")).removesuffix("_log")
    )
    if large is None or config.get("timestep_spacing", "leading") != "leading" or config.get("steps_offset"):
        return []
    return ["sampler=ancestral", f"sampler.large={large}", *_grid(config), *_clip(config, "clip")]


def _pndm(config: Config) -> Options:
    """To clean data it extrapolates over past predictions, which no sampler here does."""
    grid = [] if config.get("set_alpha_to_one") else _grid(config, to_one=False)
    return [f"sampler={'plms' if config.get('skip_prk_steps') else 'fpndm'}", *grid] if grid else []


def _dpm_solver(config: Config) -> Options:
    """Its orders fall at the end of runs of less than 15 steps; its order 3 is the released one."""
    order, kind = int(config.get("solver_order", 2)), str(config.get("algorithm_type", "dpmsolver++"))
    names = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde", "dpmsolver": "dpm_solver_2m"}
    heun = config.get("solver_type", "midpoint") == "heun"
    grids = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
    if (
        kind not in names
        or config.get("euler_at_final")
        or config.get("timestep_spacing", "linspace") != "trailing"  # others of its grids drop a level
        or config.get("final_sigmas_type", "zero") != "zero"
        or float(config.get("lambda_min_clipped", -float("inf"))) > -float("inf")
        or any(config.get(name) for name in grids)
        or (kind.startswith("sde") and order == 3)  # a wrong sign
    ):
        return []
    options = [f"sampler={names[kind]}", f"sampler.order={order}", *_grid(config)]
    options.append(f"++sampler.published={'true' if not heun or order == 3 else 'false'}")
    options.append(f"++sampler.taylor={str(heun).lower()}")
    return [*options, f"++sampler.lower_order_final={15 if config.get('lower_order_final', True) else 'false'}"]


def _grid(config: Config, *, to_one: bool = True) -> Options:
    """Trained levels, to clean data or to the first of them; none for grids whose steps miss each other's levels."""
    spacing, offset = config.get("timestep_spacing", "leading"), int(config.get("steps_offset", 0))
    if spacing == "leading" and to_one:
        return ["spacing@sampler.spacing=leading", f"sampler.spacing.offset={offset}"]
    if spacing == "leading":
        return ["spacing@sampler.spacing=latent_diffusion", f"sampler.spacing.spacing.offset={offset}"]
    return ["spacing@sampler.spacing=trailing"] if spacing == "trailing" and to_one else []


def _clip(config: Config, name: str) -> Options:
    if not config.get("clip_sample", True):
        return []
    bound = float(config.get("clip_sample_range", 1.0))
    return [f"+threshold@sampler.threshold={name}", f"sampler.threshold.bound={bound}"]
