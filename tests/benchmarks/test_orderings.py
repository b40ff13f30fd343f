"""Orderings of papers on models trained here with three seeds: the tables of docs/pages/orderings.md, printed.

This program's own commands make everything: `train.py` trains each family with seeds 0, 1 and 2, `sample.py
task=frontier` and `task=likelihood` score them, and `evaluation.trainings.compare_over` compares two cells that are
chosen beforehand. DENOISELAB_ORDERINGS=<folder> keeps runs and scores, and goes on with those that are there: a folder
<family>_<seed> is a run directory, or holds one. All of it takes some three hours of a CPU core.
"""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from oracles import Digits

import denoiselab
from denoiselab.evaluation import Store
from denoiselab.evaluation.trainings import compare_over
from denoiselab.evaluation.verdicts.panel import crossed
from denoiselab.exact_models import exact

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2)

# A small UNet of Fashion-MNIST, and a classifier for its scores of one epoch, as `experiment=fashion_mnist` has it.
_CLOTHES = [
    "data=fashion_mnist", "network.patch=2", "network.channels=48", "batch_size=64", "max_images=25600",
    "optimizer.lr=1e-3", "lr_schedule=warmup_cosine", "lr_schedule.images=6400",
    "evaluation.extractor.epochs=1", "evaluation.extractor.batch_size=128",
]  # fmt: skip

# Families of models, by the options that train them.
FAMILIES = {
    "digits_simple": ["method=ddpm"],
    "digits_vlb": ["method=vlb"],
    "digits_edm": ["method=edm"],
    "digits_label": ["experiment=digits_conditional"],
    "fashion_edm": ["experiment=fashion_mnist", "conditioner=label", "max_images=38400"],
    "fashion_simple": [*_CLOTHES, "method=ddpm"],
    "fashion_vlb": [*_CLOTHES, "method=vlb"],
}

# The three of DDIM's table, on one grid: uniform in time, from the first trained level on, as `ddpm`'s is.
_DDIM = ["{name: ddim@uniform_time, label: eta_0}", "{name: ddim@uniform_time, label: eta_1, eta: 1.0}", "ddpm"]
_ON_ASINH = ["{name: ddim@asinh, label: eta_0}", "{name: ddim@asinh, label: eta_1, eta: 1.0}", "ddpm@asinh"]
_ORDERS = ["euler", "dpmpp_2m", "dpmpp_3m", "unipc", "heun"]
_GRIDS = ["dpmpp_2m@uniform_log_snr", "dpmpp_2m@uniform_time"]
_EDM = ["euler@karras", "heun@karras"]
_CHURN = ["heun@karras", "edm_sde@karras"]
_GUIDED = "task.metrics=[frechet,precision_recall]"

# Cells of a family: samplers, network calls, samples, and further options of the task.
FRONTIERS = [
    ("digits_simple", _DDIM, [10, 20, 50], 512),
    ("digits_simple", _DDIM, [1000], 128),
    ("digits_simple", [*_ORDERS, *_GRIDS], [5, 9, 19], 256),
    ("digits_edm", _ORDERS, [5, 9, 19], 256),
    ("digits_edm", _EDM, [9, 19, 39], 256),
    ("digits_edm", _CHURN, [19, 99], 512),
    ("digits_vlb", _DDIM, [50], 512),
    ("digits_label", ["dpmpp_2m"], [10], 512, _GUIDED, "task.guidance=[0,1,1.5,2,3,4]"),
    ("fashion_simple", _DDIM, [10, 20, 50], 256),
    ("fashion_simple", _GRIDS, [5, 9, 19], 256),
    ("fashion_vlb", _DDIM, [50], 256),
    ("fashion_edm", _ORDERS, [5, 9, 19], 256),
    ("fashion_edm", _EDM, [9, 19, 39], 256),
    ("fashion_edm", ["dpmpp_2m"], [10], 512, _GUIDED, "task.guidance=[0,1,1.5,2,3,4]"),
    ("fashion_edm", _CHURN, [19, 99], 256),
    ("fashion_edm", _ON_ASINH, [10, 20, 50], 256),
]

# Families of both objectives, and images of which the bound is computed.
OBJECTIVES = {"digits": 64, "fashion": 16}


class Cell(NamedTuple):
    """A cell of a family, as its record names it."""

    family: str
    sampler: str
    nfe: int
    n: int
    guidance: float = 1.0


class Ordering(NamedTuple):
    """One cell against another, by a metric: what papers expect of the first one, and their numbers."""

    group: str
    one: Cell
    other: Cell
    expected: str | None
    paper: str = ""
    metric: str | None = None


def ddim():
    """DDIM's table 1, CIFAR-10: eta 0, eta 1 and the larger variance."""
    published = {
        10: (13.36, 41.07, 367.43), 20: (6.84, 18.36, 133.37), 50: (4.67, 8.01, 32.72), 1000: (4.04, 4.73, 3.17),
    }  # fmt: skip
    for nfe, fids in published.items():
        for family, last in {"digits_simple": "ddpm", "fashion_simple": "ddpm", "fashion_edm": "ddpm@asinh"}.items():
            if nfe < 1000 or family == "digits_simple":
                n = 128 if nfe == 1000 else 512 if family == "digits_simple" else 256
                cells = [Cell(family, name, nfe, n) for name in ("eta_0", "eta_1", last)]
                for i, k in ((0, 1), (1, 2), (0, 2)):
                    yield Ordering("DDIM", cells[i], cells[k], _better(fids[i], fids[k]), _numbers(fids[i], fids[k]))


def _better(one, other):
    return "better" if one < other else "worse"


def _numbers(one, other):
    return f"{one:.2f} against {other:.2f}"


def orders():
    """Higher orders at equal network calls: ScoreSDE's VP model and EDM's, as later papers tabulate them."""
    published = {
        ("dpmpp_2m", "euler"): {5: (28.53, 54.56), 9: (4.01, 20.11), 19: (2.90, 9.00)},
        ("unipc", "dpmpp_2m"): {5: (23.71, 28.53), 9: (3.93, 4.01), 19: (2.73, 2.90)},
        ("dpmpp_3m", "dpmpp_2m"): {},
        ("heun", "euler"): {},
    }
    for family, nfe in itertools.product(("digits_simple", "digits_edm", "fashion_edm"), (5, 9, 19)):
        for names, fids in published.items():
            at = fids.get(nfe)
            expected = ("better" if nfe > 8 else None) if at is None else _better(*at)
            cells = (Cell(family, name, nfe, 256) for name in names)
            yield Ordering("order", *cells, expected, "" if at is None else _numbers(*at))


def grids():
    """Equal steps of log-SNR against equal steps of time: the former is DPM-Solver's choice at low resolution."""
    for family, nfe in itertools.product(("digits_simple", "fashion_simple"), (5, 9, 19)):
        yield Ordering("grid", *(Cell(family, name, nfe, 256) for name in _GRIDS), "better")


def edm():
    """EDM's Heun against its Euler, and its churn against none."""
    for family, nfe in itertools.product(("digits_edm", "fashion_edm"), (9, 19, 39)):
        cells = (Cell(family, name, nfe, 256) for name in reversed(_EDM))
        yield Ordering("Heun", *cells, "worse" if nfe == 9 else "better", _numbers(15.93, 15.69) if nfe == 9 else "")
    for (family, n), nfe in itertools.product({"digits_edm": 512, "fashion_edm": 256}.items(), (19, 99)):
        cells = (Cell(family, name, nfe, n) for name in reversed(_CHURN))
        yield Ordering("churn", *cells, None if nfe == 19 else "better")


def objectives():
    """L_simple against the bound: DDPM, CIFAR-10."""
    for (data, n), name in itertools.product({"digits": 512, "fashion": 256}.items(), ("eta_0", "eta_1", "ddpm")):
        cells = (Cell(f"{data}_{family}", name, 50, n) for family in ("simple", "vlb"))
        yield Ordering("objective", *cells, "better", _numbers(3.17, 13.51))


def guidance():
    """A larger scale against the next smaller one."""
    for family in ("digits_label", "fashion_edm"):
        cells = [Cell(family, "dpmpp_2m", 10, 512, float(scale)) for scale in (0, 1, 1.5, 2, 3, 4)]
        for metric, expected in (("precision", "better"), ("recall", "worse"), ("fd", None)):
            for less, more in itertools.pairwise(cells):
                yield Ordering("guidance", more, less, expected, metric=f"{metric}_classifier")


ORDERINGS = [*ddim(), *orders(), *grids(), *edm(), *objectives(), *guidance()]


def run(program, *arguments):
    subprocess.run([sys.executable, str(ROOT / program), *arguments], check=True, cwd=ROOT)


def home(folder, family, seed):
    """The run directory of a training, or None."""
    directory = folder / f"{family}_{seed}"
    inside = [directory, *sorted(directory.glob("*"))] if directory.is_dir() else []
    return next((one for one in inside if (one / "checkpoints").is_dir()), None)


def train(folder, family, seed):
    aside = ["logger=csv", "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null"]
    least = ["evaluation.nfe=[5]", "evaluation.samplers=[dpmpp_2m]", "evaluation.num_samples=256"]
    paths = [f"paths.log_dir={folder}", f"paths.cache_dir={folder / 'cache'}"]
    run("train.py", *FAMILIES[family], f"name={family}_{seed}", f"seed={seed}", *aside, *least, *paths)


def score(folder):
    """Train and score what is missing."""
    for family, seed in itertools.product(FAMILIES, SEEDS):
        if home(folder, family, seed) is None:
            train(folder, family, seed)
        ckpt = f"ckpt={home(folder, family, seed)}"
        for name, samplers, nfe, n, *options in FRONTIERS:
            if name == family:
                cells = [f"task.samplers=[{','.join(samplers)}]", f"task.nfe={nfe}", f"task.num_samples={n}"]
                run("sample.py", ckpt, "task=frontier", *cells, *options)
        out = folder / f"bits_{family}_{seed}"
        data, objective = family.split("_")
        if objective in ("simple", "vlb") and not out.is_dir():
            n = OBJECTIVES[data]
            run("sample.py", ckpt, "task=likelihood", "task/method=bound", f"task.num_samples={n}", f"out={out}")


def stored(folder, cell, seed):
    """Where a cell of a training is stored, and its record; None if it is not there."""
    directory = home(folder, cell.family, seed)
    store = Store(directory) if directory else None
    rows = [*store.read().values()] if store else []
    same = [row for row in rows if tuple(row[key] for key in ("sampler", "nfe", "n", "guidance")) == cell[1:]]
    return (store, same[-1]) if same else None


def compared(folder, ordering):
    """`compare_over` of an ordering; None where fewer than two trainings have both cells."""
    cells = [[stored(folder, cell, seed) for seed in SEEDS] for cell in (ordering.one, ordering.other)]
    both = [pair for pair in zip(*cells, strict=True) if None not in pair]
    if len(both) < 2:
        return None
    return compare_over(*map(list, zip(*both, strict=True)), metric=ordering.metric)


def bits_per_dim(folder, data):
    """The bound of `<data>_simple` and of `<data>_vlb` `(3, 2, n)`, of the same images and noise, in bits/dim."""
    rows, indices = [], set()
    for seed in SEEDS:
        for family in ("simple", "vlb"):
            with (folder / f"bits_{data}_{family}_{seed}" / "samples.csv").open() as file:
                samples = list(csv.DictReader(file))
            rows.append([float(sample["bits_per_dim"]) for sample in samples])
            indices.add(tuple(sample["index"] for sample in samples))
    assert len(indices) == 1
    return torch.tensor(rows, dtype=torch.float64).unflatten(0, (len(SEEDS), 2))


def line(ordering, comparison):
    """A row of the table, in Markdown; a difference that one training is sure of is bold."""
    one, other = ordering.one, ordering.other
    sampler, sign = "", ordering.metric in (None, "fd_classifier")
    if one.guidance != other.guidance:
        names = [f"scale {cell.guidance:g}" for cell in (one, other)]
    elif one.family != other.family:
        names, sampler = ["L_simple", "bound"], f" ({one.sampler})"
    else:
        names = [one.sampler, other.sampler]
    digits = 2 if sign else 3
    low, high = comparison["interval"]
    errors = [f" ± {s['standard_error']:.{digits}f}".replace(" ± nan", "") for s in comparison["single"]]
    bold = ["" if s["verdict"] == "undecided" else "**" for s in comparison["single"]]
    differences = [f"{b}{s['difference']:+.{digits}f}{b}" for s, b in zip(comparison["single"], bold, strict=True)]
    single = [difference + error for difference, error in zip(differences, errors, strict=True)]
    over = f"{comparison['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    expected = " ".join(filter(None, [ordering.expected or "", f"({ordering.paper})" if ordering.paper else ""])) or "–"
    cells = [f"{names[0]} / {names[1]}{sampler}", one.family, str(one.nfe), *single, over]
    return f"| {' | '.join(cells)} | {comparison['verdict']} | {expected} |"


_HEADS = "| first / second | model | calls | seed 0 | seed 1 | seed 2 | over trainings | verdict | paper |"


def tables(folder):
    """The tables in Markdown, and the orderings that are surely against the papers."""
    against, found = [], [(ordering, compared(folder, ordering)) for ordering in ORDERINGS]
    for (group, metric), rows in itertools.groupby(found, lambda one: (one[0].group, one[0].metric)):
        print(f"\n{group} {metric or ''}\n{_HEADS}\n{'| --- ' * 9}|")
        for ordering, comparison in rows:
            if comparison is None:
                print(f"| {ordering} is not measured |")
                continue
            print(line(ordering, comparison))
            if ordering.expected and comparison["verdict"] not in ("undecided", ordering.expected):
                against.append(ordering)
    return against


def test_the_orderings_of_papers(tmp_path):
    given = os.environ.get("DENOISELAB_ORDERINGS")
    folder = Path(given).absolute() if given else tmp_path
    score(folder)
    against = tables(folder)
    print(f"\n{len(against)} of {len(ORDERINGS)} are surely against the papers")
    for data in OBJECTIVES:
        each = bits_per_dim(folder, data)
        rows, errors = each[:, 0] - each[:, 1], each.std(2) / each.shape[2] ** 0.5
        panel = crossed(rows.mean(1), rows - rows.mean(1, keepdim=True), rows.shape[1])
        print(f"{data}, bits/dim of L_simple and of the bound {each.mean(2).tolist()} +- {errors.tolist()}")
        print(f"differences {rows.mean(1).tolist()} +- {(rows.std(1) / rows.shape[1] ** 0.5).tolist()}")
        print(f"over trainings {panel.mean:+.4f} {panel.interval()}")
        if data == "digits":
            assert panel.interval()[0] > 0


def test_noise_gains_nothing_with_the_exact_denoiser(tmp_path):
    """DDIM's eta on the digits' own mixture: eta 1 is before eta 0 with trained networks alone."""
    model, grid = exact(Digits(), denoiselab.schedule("ddpm")), denoiselab.spacing("uniform_time")
    for steps in (10, 20, 50):
        scores = {}
        for eta in (0.0, 1.0):
            points = model.sample(denoiselab.sampler("ddim", steps=steps, eta=eta, spacing=grid), 512, seed=0)
            images = ((torch.as_tensor(points) + 1) * 127.5).round().clamp(0, 255).byte().reshape(-1, 8, 8, 1)
            scores[eta] = denoiselab.score(images.numpy(), "digits", extractor="classifier", cache=tmp_path)[-1]
        one, zero = scores[1.0], scores[0.0]
        error = (one.standard_error**2 + zero.standard_error**2) ** 0.5
        print(f"{steps} calls: eta 0 {zero.value:.2f}, eta 1 {one.value:.2f}, difference +- {error:.2f}")
        assert one.value - zero.value > -2 * error
