"""Published frontiers as presets: `frontier=<name>` has the samplers, grids and network calls of a paper's table."""

import functools
import itertools
import json
import shutil

import pytest
import torch
from configurations import CONF, build, composing, names, stated
from hydra import compose
from omegaconf import OmegaConf

import denoiselab
from denoiselab.app.building import parts
from denoiselab.app.config.choices import curves_of
from denoiselab.app.config.tasks import written_out
from denoiselab.errors import BadInput
from denoiselab.evaluation import Frontier
from denoiselab.evaluation.report.published_curves import beside
from denoiselab.evaluation.verdicts import published
from denoiselab.schedules import VPLinear

PRESETS = names("frontier")
PAPERS = dict(zip(names("published"), published.read(CONF / "published"), strict=True))

# Counts of a table that a preset leaves out; its header says why.
LEFT_OUT = {"pndm_table": {1009}}
# Models whose schedule is not DDPM's chain.
SCHEDULES = {"edm": "edm", "edm_solvers": "edm"}


@functools.cache
def presets():
    """Of each what it states, the configurations of its samplers, and label to curve; samplers are read once."""
    nodes = {name: OmegaConf.to_container(stated(f"frontier/{name}"))["evaluation"] for name in PRESETS}
    with composing():
        return {
            name: (node, parts.sampler_nodes(node["samplers"]), curves_of(node["samplers"]))
            for name, node in nodes.items()
        }


def preset(name):
    return presets()[name]


@functools.cache
def frontier(name):
    """The preset's frontier on the schedule of its model; no network is called."""
    node, nodes, _ = preset(name)
    schedule = build("schedule", SCHEDULES.get(name, "ddpm"))
    samplers, budgets = parts.build_samplers(nodes), (node["nfe"], node.get("extra_nfe", {}))
    return Frontier(samplers, nodes, schedule, *budgets, node["num_samples"], 64, 0, ["ema"]), schedule


def test_the_frontiers_of_the_papers_are_there():
    asked = (
        "ddim_table1 pndm_table deis_table dpm_solver_cifar10 dpm_solver_pp edm_solvers unipc dpm_solver_v3 score_sde"
    )
    assert {*asked.split()} <= {*PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_network_calls_are_those_that_the_paper_counts(name):
    found, _ = frontier(name)
    node, _, curves = preset(name)
    assert curves
    assert found.num_samples == 50_000
    calls = {curve: set() for curve in curves.values()}
    for (label, _), spent in zip(found.cells, found.calls, strict=True):
        if label in curves:
            calls[curves[label]].add(spent)
    assert not {label for label, _, _ in found.inexact} & {*curves}
    for label, curve in curves.items():
        own = [one for table in PAPERS[node["published"]].tables for one in table.curves if one.name == curve]
        counts = {count for one in own for count in one.by_calls()} - LEFT_OUT.get(name, set())
        assert own, curve
        assert counts <= calls[curve], (label, counts - calls[curve])


@pytest.mark.parametrize("t_min", [1e-3, 1e-5])
@pytest.mark.parametrize(
    ("name", "label", "last"),
    [
        ("deis_table", "tab_3", 1e-3), ("unipc", "unipc_bh1", 1e-3), ("dpm_solver_v3", "deis", 1e-3),
        ("dpm_solver_cifar10", "dpm_solver_fast", 1e-3), ("dpm_solver_cifar10", "dpm_solver_3_1e-4", 1e-4),
    ],
)  # fmt: skip
def test_runs_end_where_the_papers_do(name, label, last, t_min):
    levels = preset_samplers(name)[label].grid(VPLinear(t_min=t_min), 10)
    assert float(levels[0].t) == 1
    assert float(levels[-1].t) == max(last, t_min)


def preset_samplers(name):
    return parts.build_samplers(preset(name)[1])


def indices(name, label, steps):
    """Indices of the trained levels at which the network is called, and the level where the run ends."""
    found, schedule = frontier(name)
    levels = found.samplers[label].grid(schedule, steps)
    return [float(level.t) for level in levels[:-1]], levels[-1]


def test_grids_are_those_of_the_released_codes():
    """Numbers of papers.md, section 1.18, at 10 steps of 1,000 trained levels."""
    _, schedule = frontier("ddim_table1")
    first = float(schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64)).rho)

    def trained(ts):
        return [round((t - schedule.t_min) / (schedule.t_max - schedule.t_min) * 999, 1) for t in ts]

    ts, last = indices("ddim_table1", "ddim", 10)
    assert trained(ts) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    assert last.is_end
    ts, last = indices("ddim_table1_celeba", "ddim", 10)
    assert trained(ts) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    ts, last = indices("pndm_table", "fpndm", 10)
    assert trained(ts) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert float(last.rho) == pytest.approx(first)
    ts, last = indices("dpm_solver_pp", "dpmpp_2m", 10)
    assert trained(ts) == pytest.approx([999, 899.1, 799.2, 699.3, 599.4, 499.5, 399.6, 299.7, 199.8, 99.9], abs=0.11)
    assert float(last.rho) == pytest.approx(first)
    ts, last = indices("unipc", "unipc_bh1", 10)
    assert trained(ts) == pytest.approx([999, 898, 785, 653, 492, 302, 138, 52, 17, 4], abs=1.5)
    assert float(last.rho) == pytest.approx(first)
    ts, last = indices("deis_table", "tab_3", 10)
    assert trained(ts) == pytest.approx([999, 814.7, 649.2, 502.4, 374.3, 265.1, 174.5, 102.8, 49.8, 15.5], abs=3)
    found, schedule = frontier("edm")
    sigmas = [float(level.rho) for level in found.samplers["heun"].grid(schedule, 18)]
    wanted = [80, 57.586, 40.786, 28.375, 19.353, 12.91, 8.401, 5.315, 3.257, 1.923, 1.088, 0.5853, 0.2964, 0.1395]
    assert sigmas == pytest.approx([*wanted, 0.0599, 0.0229, 0.0075, 0.002, 0.0], rel=2e-3, abs=5e-5)
    assert found.calls == [35]
    for t_min in (1e-3, 1e-5):  # of imported weights, and of our own training
        levels = preset_samplers("score_sde")["euler_maruyama"].grid(VPLinear(t_min=t_min), 1000)
        assert [float(level.t) for level in levels] == pytest.approx([1 - i / 1000 for i in range(1001)])


@functools.cache
def _loaded(directory):
    return denoiselab.load(directory)


@pytest.mark.parametrize("name", PRESETS)
def test_each_draws_samples_of_a_trained_model(name, finished):
    model = _loaded(finished)
    found, _ = frontier(name)
    for label, sampler in found.samplers.items():
        drawn = model.sample(sampler, 1, steps=3)
        assert drawn.shape == (1, 1, 8, 8), label


def test_a_preset_replaces_a_recipes_evaluation_and_options_of_the_command_line_replace_it():
    with composing():
        own = compose("train", ["experiment=fashion_mnist", "frontier=unipc", "evaluation.nfe=[3]"]).evaluation
        assert (own.published, own.nfe, own.num_samples) == ("unipc", [3], 50_000)
        assert [one.label for one in own.samplers] == ["dpmpp_3m", "unipc_bh1", "unipc_bh2"]
        assert written_out(["ckpt=a", "frontier=unipc"], "generate") == [
            "ckpt=a",
            "frontier@task=unipc",
            "task=frontier",
        ]
        with pytest.raises(BadInput, match=r"frontier=unipc: goes with task=frontier, not with task=search"):
            written_out(["frontier=unipc", "task=search"], "generate")


def test_the_table_has_published_values_below_ours_and_says_what_differs(finished, tmp_path, invoke):
    copy = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    asked = ["frontier=ddim_table1", "task.nfe=[2,10]", "task.num_samples=8"]
    result = invoke("sample.py", f"ckpt={copy}", *asked)
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines()]
    below = [after for before, after in itertools.pairwise(rows) if before[:1] == ["ddim_0.5"]]
    assert below[0] == ["published", "16.66"]  # of 10 calls: the paper has none of 2
    assert "Table 1, CIFAR-10" in result.out
    assert (
        "differs in data: digits, theirs cifar10; metric: fd_classifier, theirs fid; samples: 8, theirs" in result.out
    )
    stored = json.loads((copy / "frontier.json").read_text())
    etas = {record["sampler"]: record["settings"].get("eta") for record in stored if record["n"] == 8}
    assert etas == {"ddim": 0.0, "ddim_0.2": 0.2, "ddim_0.5": 0.5, "ddim_1": 1.0, "ddpm_large": None}


def test_the_table_that_differs_least_stands_beside_ours():
    """DPM-Solver-v3's paper has UniPC on two models of CIFAR-10, and on ImageNet."""
    record = {
        "sampler": "unipc", "nfe": 10, "score": 1.0, "data": "cifar10", "metric": "fid", "n": 50_000, "split": "train",
        "extractor": "inception", "guidance": None, "weights": "ema", "images_seen": 0,
    }  # fmt: skip
    for schedule, value in (("VPLinear", 3.93), ("EDM", 2.85)):
        config = {
            "network": {"_target_": "a.NCSNpp"}, "schedule": {"_target_": f"a.{schedule}"},
            "parameterization": {"_target_": "a.edm" if schedule == "EDM" else "a.eps"},
            "conditioner": {"_target_": "a.Unconditional"},
        }  # fmt: skip
        found = beside(PAPERS["dpm_solver_v3"], {"unipc": "UniPC"}, [record], config)
        assert found.values["unipc", 10] == value
        assert "No difference in protocol is known. It does not say: samples, reference" in found.said
    assert beside(PAPERS["edm"], {"heun": "Heun"}, [record], {}) is None


def test_samplers_with_options_are_called_by_them_or_by_a_label():
    def nodes(*entries):
        with composing():
            return parts.sampler_nodes([*entries])

    found = nodes(
        "ddim", {"name": "ddim@karras", "eta": 0.5}, {"name": "ddim", "label": "a", "spacing": {"to_clean": False}}
    )
    assert [*found] == ["ddim", "ddim@karras eta=0.5", "a"]
    assert found["ddim@karras eta=0.5"]["eta"] == 0.5
    for entries, says in (
        ([{"eta": 0.5}], "it needs a name of conf/sampler"),
        ([{"name": "ddim", "label": "a"}, {"name": "heun", "label": "a"}], "'a' is listed more than once"),
        ([{"name": "ddim", "etta": 0.5}], "etta"),
        ([{"name": "dimm"}], "did you mean 'ddim'"),
    ):
        with pytest.raises(BadInput, match=says):
            nodes(*entries)


def test_a_part_may_be_an_option_of_a_sampler_in_a_task(finished, tmp_path, invoke):
    entry = "{name: ddim, label: clipped, threshold: {_target_: denoiselab.samplers.thresholding.Clip}}"
    words = [f"task.samplers=[{entry}]", "task.nfe=[2]", "task.num_samples=8", f"out={tmp_path / 'out'}"]
    result = invoke("sample.py", f"ckpt={finished}", "task=frontier", *words)
    assert result.code == 0, result.err
    (record,) = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert record["settings"]["threshold"]["_target_"].endswith("Clip")


def test_published_values_that_are_not_there_are_refused():
    with composing():
        for evaluation, says in (
            ({"published": "ddimm", "samplers": []}, r"published=ddimm: unknown; did you mean 'ddim'\?"),
            (
                {"published": "edm", "samplers": [{"name": "heun", "curve": "Hein"}]},
                r"curve=Hein: not in edm; did you mean",
            ),
        ):
            with pytest.raises(BadInput, match=says):
                parts.published_values(evaluation)
