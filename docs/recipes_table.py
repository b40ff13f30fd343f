"""Writes docs/pages/recipes.md, the table of all recipes: `python docs/recipes_table.py`.

A recipe is a file of `conf/experiment`. Its second line says what it is, its third and following lines the command, and
`recipes:` of a file of `conf/published` what its paper says of it.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import OmegaConf

from denoiselab import choices
from denoiselab.app.commands.checking import plain
from denoiselab.app.config import overrides, resolvers
from denoiselab.app.config.hydra_node import CheckedLoader
from denoiselab.conditioners import Clean
from denoiselab.evaluation.verdicts import published
from denoiselab.evaluation.verdicts.published import Paper, Recipe
from denoiselab.from_config import build
from denoiselab.frozen import TextEncoder
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.summary import Summary, summarize
from denoiselab.nodes import search_path
from denoiselab.trained import ClassifierModel, FirstStage, Trained

PAGE = Path(__file__).parent / "pages" / "recipes.md"
EXPERIMENTS = choices.folder() / "experiment"
NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml") if not path.stem.endswith("_tiny"))

HEAD = """---
hide: [toc]
---

# Recipes

`python train.py experiment=<name>` trains a paper's model in its setting; `experiment=<name>_tiny`, where there is one,
does the same in small, in seconds on a CPU. A recipe's file in `conf/experiment` gives the whole command, with the data
and weights that it needs, and its time. None of the large ones has been trained with this code, unless the file gives
our own value.

Parameters are those of the network. Operations are of one image and one call of it (a first stage: encoding and
decoding), a multiplication and its addition counted as two. Images are those of the whole training. Where a value was
not read in the paper itself, it is said; a number "from memory" is not confirmed.

| recipe | what it is | parameters | GFLOPs | images | published |
| --- | --- | ---: | ---: | ---: | --- |
"""

FOOT = """
## The bound against L_simple

`python train.py -m experiment=ddpm_objectives_cifar10 method=ddpm,vlb` trains DDPM's network on both objectives. On
digits, each trained three times (`python train.py -m method=ddpm,vlb seed=0,1,2`, [measured](orderings.md)):

| | L_simple | the bound |
| --- | ---: | ---: |
| bits/dim of digits | 5.114 | 4.898 |
| Fréchet distance of digits, DDIM at 50 calls, less that of the bound | -8.26 | 0 |
| bits/dim of CIFAR-10 in the paper, at most | 3.75 | 3.70 |
| FID of CIFAR-10 in the paper | 3.17 | 13.51 |

A model of the bound restores images, as that of 2015 did: held-out digits with a hole (`task=inverse task/operator=box
task/method=repaint`), and with noise of standard deviation 0.5 (`task/operator=identity noise=0.5`); in threes what is
given, what the model makes, and the digit itself. `sampler=ancestral sampler.steps=50`, 15.3 and 13.9 dB.

![Digits with a hole](pictures/bound_inpainting.png) ![Digits with noise](pictures/bound_denoising.png)
"""

# Stands for the folder of a frozen part, whose weights are not needed to know its shapes.
_KL, _SMALL = "denoiselab.codecs.AutoencoderKL", {"blocks": 1, "middle_attention": False, "channels": 8, "groups": 4}
_TEXT = {"model_type": "clip_text_model", "max_position_embeddings": 77}
_STAND_INS: dict[str, dict[str, Any]] = {
    "VQ-f4": {"_target_": "denoiselab.codecs.VQModel", "shape": [3, 256, 256]},
    "KL-f8": {"_target_": _KL, "shape": [3, 256, 256]},
    "vae": {"_target_": _KL, "shape": [3, 512, 512]},
    "first stage of emoji": {
        "_target_": _KL, "shape": [3, 32, 32], "multipliers": [1, 2, 4], "latent_channels": 8, **_SMALL
    },
    "first stage of clothes": {"_target_": _KL, "shape": [1, 28, 28], "multipliers": [1, 2, 4], **_SMALL},
    "CLIP": {**_TEXT, "hidden_size": 768},
    "OpenCLIP": {**_TEXT, "hidden_size": 1024},
    "MiniLM": {"model_type": "bert", "hidden_size": 384, "max_position_embeddings": 512},
    "DINOv2-B of timm": {"architecture": "vit_base_patch14_reg4_dinov2"},
    "DINOv2-S of timm": {"architecture": "vit_small_patch14_dinov2"},
}  # fmt: skip


def header(name: str) -> tuple[str, str]:
    """What a recipe is, and its command."""
    lines = (EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    what, rest = lines[1].removeprefix("# "), [line.removeprefix("#").rstrip() for line in lines[2:]]
    words = rest[0].split()
    for line in rest[1:]:
        if not line.startswith("   "):
            break
        words += line.split()
    return what, " ".join(words)


def options(name: str, folder: Path) -> list[str]:
    """The options of a recipe's command, with stand-ins in a folder for what a user has to give."""
    given = []
    for word in re.findall(r"\S+?=<[^>]*>|\S+", header(name)[1]):
        key, _, value = word.partition("=")
        if value in ("", "gpu"):
            continue
        if value.startswith("<") or key in ("init_from", "pairs"):
            value = "none" if key == "data.root" else str(_stand_in(value.strip("<>"), folder))
        given.append(f"{key}={value.partition(',')[0]}")  # the first of a sweep's
    return given


def _stand_in(what: str, folder: Path) -> Path:
    place = folder / re.sub(r"\W", "_", what)
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(_STAND_INS.get(what, {})))
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    return place


@contextmanager
def composing() -> Iterator[None]:
    """Within it recipes are composed as train.py does."""
    resolvers.register()
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    with search_path.initialized(choices.folder(), "train", {}, CheckedLoader):
        yield


def costs(model: Trained) -> Summary:
    """Of a model on the meta device, as train.py says them at the start."""
    x = torch.zeros(1, *model.shape)
    if isinstance(model, FirstStage):
        return summarize(model.trained, x, None, None)
    cond = None
    if not isinstance(model, ClassifierModel):
        device = "cpu" if model.conditioner.module is None else "meta"
        with torch.device(device), patch.object(TextEncoder, "_encoded", encoded):
            given = model.conditioner.given(Clean.blank(1, model.codec.shape))
        cond = Conditioning(*(one if one is None else torch.zeros(one.shape, dtype=one.dtype) for one in given))
    return summarize(model.trained.get_submodule("network"), x, torch.zeros(1), cond)


def encoded(encoder: TextEncoder, texts: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """As of an encoder with weights."""
    shape = (len(texts), encoder.length)
    return torch.zeros(*shape, encoder.features), torch.ones(*shape, dtype=torch.bool)


def papers() -> dict[str, tuple[Paper, Recipe]]:
    """What is published, by recipe."""
    read = published.read(choices.folder() / "published")
    return {recipe.experiment: (paper, recipe) for paper in read for recipe in paper.recipes}


def row(name: str, images: int, found: Summary, recipe: Recipe | None) -> str:
    """The line of a recipe in the table."""
    what, _ = header(name)
    value = "" if recipe is None else recipe.value
    if recipe is not None and value and recipe.seen != "paper":
        value += " (from memory)" if recipe.seen == "memory" else f" (read in: {recipe.seen})"
    cells = [
        f"`{name}`",
        re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", what),
        f"{found.parameters / 1e6:,.2f} M",
        f"{float(f'{found.forward_flops / 1e9:.3g}'):,g}",
        f"{images:,}",
        value,
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def images_of(config: Mapping[str, Any]) -> int:
    """Of a training, or of all stages of one."""
    return sum(stage["max_images"] for stage in config.get("stages") or [config])


def main() -> None:
    """Write the page."""
    known, rows = papers(), []
    with tempfile.TemporaryDirectory() as folder, composing():
        for name in NAMES:
            given = [f"experiment={name}", *options(name, Path(folder))]
            config = plain(overrides.composed("train", given), [])
            with torch.device("meta"):
                model = build(config)
            rows.append(row(name, images_of(config), costs(model), known.get(name, (None, None))[1]))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(HEAD + "\n".join(rows) + "\n" + FOOT, encoding="utf-8")


if __name__ == "__main__":
    main()
