"""Released models by name: `model:<name>` as `ckpt=`, as `import=` and as the source of `load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from denoiselab.errors import BadInput, closest

PREFIX = "model:"


@dataclass(frozen=True)
class Released:
    """Where a released model is.

    Args:
        path: Id of a repository of the Hugging Face hub.
        importer: A name of `conf/import`, which reads it.
        options: Of the importer.
    """

    path: str
    importer: str = "diffusers"
    options: Mapping[str, Any] = field(default_factory=dict)


RELEASED: dict[str, Released] = {
    "ddpm_cifar10": Released("google/ddpm-cifar10-32"),
    "ddpm_celebahq256": Released("google/ddpm-celebahq-256"),
    "ddpm_ema_celebahq256": Released("google/ddpm-ema-celebahq-256"),
    "ddpm_bedroom256": Released("google/ddpm-bedroom-256"),
    "ddpm_ema_bedroom256": Released("google/ddpm-ema-bedroom-256"),
    "ddpm_church256": Released("google/ddpm-church-256"),
    "ddpm_ema_church256": Released("google/ddpm-ema-church-256"),
    "ddpm_cat256": Released("google/ddpm-cat-256"),
    "ddpm_ema_cat256": Released("google/ddpm-ema-cat-256"),
    "dit_xl_2_256": Released("facebook/DiT-XL-2-256"),
    "dit_xl_2_512": Released("facebook/DiT-XL-2-512"),
    "ldm_celebahq256": Released("CompVis/ldm-celebahq-256"),
    "ldm_txt2img_large": Released("CompVis/ldm-text2im-large-256"),
    "sd_1_4": Released("CompVis/stable-diffusion-v1-4"),
    "sd_1_5": Released("stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sd_1_5_inpainting": Released("stable-diffusion-v1-5/stable-diffusion-inpainting"),
    "sd_2_base": Released("stabilityai/stable-diffusion-2-base"),
    "sd_2": Released("stabilityai/stable-diffusion-2"),
    "sd_2_inpainting": Released("stabilityai/stable-diffusion-2-inpainting"),
    "sd_2_1_base": Released("stabilityai/stable-diffusion-2-1-base"),
    "sd_2_1": Released("stabilityai/stable-diffusion-2-1"),
}


def written_out(arguments: Sequence[str]) -> list[str]:
    """Arguments of `sample.py` with `ckpt=model:<name>` and `import=model:<name>` as the import that the name means.

    Raises:
        BadInput: If there is no model of that name.
    """
    out: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        model = released(value.strip("'\""), key) if key in ("ckpt", "import") else None
        if model is None:
            out.append(argument)
        else:
            out += [f"import={model.importer}", f"import.path={model.path}"]
            out += [f"import.{name}={given}" for name, given in model.options.items()]
    return out


def released(source: str, option: str) -> Released | None:
    """The model that `source` names, if it begins with `model:`.

    Args:
        source: As the user wrote it.
        option: That it is the value of, for messages.

    Raises:
        BadInput: If there is no model of that name.
    """
    if not source.startswith(PREFIX):
        return None
    name = source.removeprefix(PREFIX)
    if name not in RELEASED:
        raise BadInput(f"{option}={source}: unknown; {closest(name, RELEASED)}allowed: {', '.join(RELEASED)}.")
    return RELEASED[name]
