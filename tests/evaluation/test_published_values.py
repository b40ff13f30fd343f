"""The registry of published values, and what differs between theirs and ours."""

import pytest
import yaml

from denoiselab.choices import folder
from denoiselab.evaluation.verdicts import published
from denoiselab.evaluation.verdicts.published import Own, Paper, differences

FOLDER = folder() / "published"
PAPERS = {path.stem: paper for path, paper in zip(sorted(FOLDER.glob("*.yaml")), published.read(FOLDER), strict=True)}

CELL = {
    "data": "cifar10", "n": 50000, "split": "train", "extractor": "inception", "guidance": 1.0, "weights": "ema",
    "images_seen": 0,
}  # fmt: skip
CONFIG = {
    "network": {"_target_": "denoiselab.networks.DDPMUNet"},
    "schedule": {"_target_": "denoiselab.schedules.DiscreteVP"},
    "parameterization": {"_target_": "denoiselab.parameterizations.eps"},
    "conditioner": {"_target_": "denoiselab.conditioners.Unconditional"},
}


def test_values_are_those_of_the_papers():
    ddim = PAPERS["ddim"].tables[0].curves[0]
    assert ddim.by_calls() == {10: 13.36, 20: 6.84, 50: 4.67, 100: 4.16, 1000: 4.04}
    assert PAPERS["ddpm"].tables[0].curves[0].values == {1000: 3.17}
    v3 = {curve.name: curve.values for curve in PAPERS["dpm_solver_v3"].tables[0].curves}
    assert (v3["UniPC"][10], v3["DDIM"][5], v3["DPM-Solver-v3"][25]) == (3.93, 54.56, 2.64)


def test_calls_are_counted_as_ours():
    """The warm start of F-PNDM takes nine calls more than its steps."""
    assert PAPERS["pndm"].tables[0].curves[0].by_calls() == {19: 7.03, 29: 4.61, 59: 3.68, 209: 3.47, 1009: 3.26}


@pytest.mark.parametrize("name", PAPERS)
def test_parts_of_models_are_classes_of_ours(name):
    """Else a model of ours could never be theirs."""
    import denoiselab.networks
    import denoiselab.parameterizations
    import denoiselab.schedules

    modules = {part: getattr(denoiselab, f"{part}s") for part in ("network", "schedule", "parameterization")}
    for table in PAPERS[name].tables:
        for part, named in table.model.parts.items():
            assert hasattr(modules[part], named), named
        assert (FOLDER.parent / "data" / f"{table.protocol.data}.yaml").is_file()


def test_what_differs_is_said():
    table = PAPERS["ddpm"].tables[0]
    assert differences(table, Own(CELL, CONFIG)) == []
    assert differences(table, Own({**CELL, "images_seen": 102_400_000}, CONFIG)) == []
    for change, says in (
        ({"n": 512}, "samples: 512, theirs 50000"),
        ({"split": "held_out"}, "reference: held_out, theirs train"),
        ({"extractor": "dinov2"}, "extractor: dinov2, theirs inception"),
        ({"guidance": 2.0}, "guidance: 2.0, theirs 1.0"),
        ({"weights": "raw"}, "weights: raw, theirs ema"),
        ({"classifier_scale": 3.0}, "classifier's scale: 3.0, theirs none"),
        ({"images_seen": 51_200}, "training: 51,200 images seen, theirs 102,400,000"),
    ):
        assert differences(table, Own({**CELL, **change}, CONFIG)) == [says]
    for part, target, says in (
        ("network", "denoiselab.networks.DiT", "network: DiT, theirs DDPMUNet (DDPM)"),
        ("schedule", "denoiselab.schedules.Flow", "schedule: Flow, theirs DiscreteVP (DDPM)"),
        ("conditioner", "denoiselab.conditioners.ClassLabel", "labels: conditional, theirs not"),
    ):
        assert differences(table, Own(CELL, {**CONFIG, part: {"_target_": target}})) == [says]
    assert differences(table, Own(CELL, {})) == ["model: not known, theirs DDPM"]


def test_curves_are_of_the_same_data_and_metric_and_say_what_is_not_recorded():
    papers = [*PAPERS.values()]
    found = [*published.curves(papers, Own(CELL, CONFIG), "fid")]
    matching = {curve["name"] for curve in found if not curve["differs"]}
    assert "DDIM eta=0, DDPM" in matching
    assert not any("EDM" in name for name in matching)
    assert all(curve["points"] == sorted(curve["points"]) for curve in found)
    ddim = next(curve for curve in found if curve["name"] == "DDIM eta=0, DDPM" and "Implicit" in curve["source"])
    assert "reference" in ddim["unknown"]
    assert [*published.curves(papers, Own({**CELL, "data": "digits"}, CONFIG), "fid")] == []
    assert [*published.curves(papers, Own(CELL, CONFIG), "fd_dinov2")] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": ""}, "source"),
        ({"year": 2020}, "year"),
        ({"tables": []}, "tables"),
    ],
)
def test_a_file_of_another_form_is_refused(change, says, tmp_path):
    content = yaml.safe_load((FOLDER / "ddpm.yaml").read_text())
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(ValueError, match=rf"own\.yaml: {says}: "):
        published.read(tmp_path)
    (tmp_path / "own.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"own\.yaml: is no YAML"):
        published.read(tmp_path)


def test_one_more_paper_is_one_more_file(tmp_path):
    for path in FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mine.yaml").write_text((FOLDER / "ddpm.yaml").read_text().replace("3.17", "2.5"))
    found = published.read(tmp_path)
    assert len(found) == len(PAPERS) + 1
    assert isinstance(found[-3], Paper)
    values = [c["points"] for c in published.curves(found, Own(CELL, CONFIG), "fid") if "Probabilistic" in c["source"]]
    assert [(1000, 2.5)] in values
