"""Released models: by name, as `model:<name>`, and as folders that `sample.py task=export task.format=release` writes.

The folder of a release holds the averaged weights of a run (`model.safetensors`), copies of the frozen parts that its
configuration names, a card, and `manifest.json`: the configuration, the command of the training, and the SHA-256 of
each file. Those in `models/` ship with the package, and the name of such a folder is that of its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denoiselab.errors import BadInput, closest
from denoiselab.files import MANIFEST, atomic, read_json, sha256_of, write_json

PREFIX = "model:"

# Of a release's weights, and of its card.
WEIGHTS, CARD = "model.safetensors", "card.md"

_FORMAT = 1


class BrokenError(ValueError):
    """What is wrong with a release, without its path."""


@dataclass(frozen=True)
class Released:
    """Where a released model is.

    Args:
        path: Id of a repository of the Hugging Face hub, or the folder of a release.
        importer: A name of `conf/import`, which reads it; None for a release of this package.
        options: Of the importer.
    """

    path: str
    importer: str | None = "diffusers"
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


FOLDER = Path(__file__).parent / "models"


def shipped() -> dict[str, Path]:
    """The releases that ship, by name."""
    return {path.parent.name: path.parent for path in sorted(FOLDER.glob(f"*/{MANIFEST}"))}


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
        elif model.importer is None:
            out.append(f"ckpt={PREFIX}{Path(model.path).name}")
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
    name, ours = source.removeprefix(PREFIX), shipped()
    if name in ours:
        return Released(str(ours[name]), None)
    if name not in RELEASED:
        names = [*ours, *RELEASED]
        raise BadInput(f"{option}={source}: unknown; {closest(name, names)}allowed: {', '.join(names)}.")
    return RELEASED[name]


def place(path: Path, option: str) -> Path:
    """`path`, or the folder of a release where it is `model:<name>`.

    Raises:
        BadInput: If there is no such model, or it does not ship.
    """
    model = released(str(path), option)
    if model is not None and model.importer is not None:
        raise BadInput(
            f"{option}={path}: it is of another code base; python sample.py ckpt={path} makes a run directory of it, "
            "to name here."
        )
    return path if model is None else Path(model.path)


def is_release(path: Path) -> bool:
    """Whether a folder says that it is a release."""
    try:
        return (path / MANIFEST).is_file() and read_json(path / MANIFEST).get("kind") == "release"
    except (ValueError, OSError):
        return False


def write(path: Path, weights: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write weights and manifest to a folder, all other files of which are there.

    Args:
        path: The folder.
        weights: The state of a denoiser, names to tensors.
        facts: Of the manifest: `config`, `images_seen`, `average` (the name of the average that the weights are),
            `parameters` (names of those that are averaged), `make` (the command) and whatever else.
    """
    from safetensors.torch import save

    with atomic(path / WEIGHTS) as file:
        file.write(save({name: value.cpu().contiguous() for name, value in weights.items()}))
    found = sorted(one for one in path.rglob("*") if one.is_file() and one != path / CARD)
    sums = {one.relative_to(path).as_posix(): sha256_of(one) for one in found}
    write_json(path / MANIFEST, {"kind": "release", "format": _FORMAT, **facts, "files": sums})


def read(path: Path) -> dict[str, Any]:
    """A release as a checkpoint of format 1: its weights, in float32, are the average and those without averaging.

    Raises:
        BrokenError: If it is not as it was written.
    """
    from safetensors.torch import load_file

    manifest = read_json(path / MANIFEST)  # which `is_release` has read
    files, make = manifest.get("files"), manifest.get("make")
    if manifest.get("format") != _FORMAT or not isinstance(files, dict) or not isinstance(make, str):
        raise BrokenError(f"its {MANIFEST} is malformed")
    for name, digest in {WEIGHTS: None, **files}.items():
        state = "" if _inside(path, name) and (path / name).is_file() else "is missing"
        if state or sha256_of(path / name) != digest:
            raise BrokenError(f"its {name} {state or 'is damaged'}; train the model anew with: {make}")
    stored = load_file(path / WEIGHTS)
    weights = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    parameters = manifest.get("parameters")
    if not isinstance(parameters, list) or not weights.keys() >= {*parameters}:
        raise BrokenError(f"its {MANIFEST} is malformed")
    return {
        "state_dict": {f"denoiser.{name}": value for name, value in weights.items()},
        "denoiselab": {
            "format": 1,
            "images_seen": manifest.get("images_seen"),
            "config": manifest.get("config"),
            "ema": {manifest.get("average"): {name: weights[name] for name in parameters}},
        },
    }


def _inside(path: Path, name: str) -> bool:
    """Whether a name leads to a file below a folder."""
    return (path / name).resolve().is_relative_to(path.resolve())
