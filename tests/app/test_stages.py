"""Teachers, and trainings of several stages, of which each teaches the next."""

import json
import re
import shutil

import pytest
import torch
from conftest import QUICK, ROOT
from omegaconf import OmegaConf

from denoiselab.training.checkpoint_files import read_checkpoint

LAST = "checkpoints/last.ckpt"
STUDENT = [
    *QUICK, "objective=progressive", "evaluation.nfe=['${objective.steps}']", "callbacks.frontier.every_images=null",
    "callbacks.frontier.nfe=['${objective.steps}']", "callbacks.preview.every_images=null",
    "callbacks.preview.sampler=ddim", "callbacks.preview.nfe='${objective.steps}'",
    "callbacks.held_out.every_images=null",
]  # fmt: skip
SIMPLE = ["objective=simple", "evaluation.nfe=[2]", "callbacks.frontier.nfe=[2]", "callbacks.preview.nfe=2"]
STAGES = "stages={{objective:{{steps:[2,1]}},max_images:[64,{}]}}"


def weights(run, average=False):
    saved = read_checkpoint(run / LAST)
    state = {name.removeprefix("denoiser."): tensor for name, tensor in saved["state_dict"].items()}
    return state | saved["denoiselab"]["ema"]["ema"] if average else state


@pytest.fixture(scope="module")
def teacher(finished, tmp_path_factory):
    return shutil.copytree(finished, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture
def staged(teacher, tmp_path, invoke):
    """Trains in stages of 2 and 1 steps, in the folder of that name, up to so many images in the second."""

    def train(name, images, *more):
        path = tmp_path / name
        result = invoke(
            "train.py", *STUDENT, f"paths.run_dir={path}", f"teacher={teacher}", STAGES.format(images), *more
        )
        return path, result

    return train


def test_each_stage_learns_from_the_one_before_and_continues_where_it_was(staged, teacher, tmp_path):
    """Killed between two stages, and within one."""
    path, result = staged("whole", 128)
    assert result.code == 0, result.err
    records = [json.loads((path / f"stage_{n}/run.json").read_text()) for n in (1, 2)]
    first, second = (record["teacher"] for record in records)
    assert (first["checkpoint"], first["weights"]) == (str(teacher / LAST), "ema")
    assert second["checkpoint"] == str(path / "stage_1" / LAST)
    assert (second["images_seen"], second["calls_per_image"], second["teacher"]) == (64, 2, first)
    assert [record["initial"]["checkpoint"] for record in records] == [first["checkpoint"], second["checkpoint"]]
    cells = [json.loads((path / f"stage_{n}/frontier.json").read_text()) for n in (1, 2)]
    assert [[(cell["sampler"], cell["nfe"]) for cell in stage] for stage in cells] == [[("ddim", 2)], [("ddim", 1)]]
    assert read_checkpoint(path / "stage_2" / LAST)["denoiselab"]["teacher"] == second
    assert not any("teacher" in name for name in read_checkpoint(path / "stage_2" / LAST)["state_dict"])

    shutil.copytree(path / "stage_1", tmp_path / "stopped" / "stage_1")
    again = []
    for images in (64, 128):
        other, result = staged("stopped", images)
        assert result.code == 0, result.err
        again.append(weights(other / "stage_2"))
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in weights(path / "stage_2").items())
    assert any(not torch.equal(tensor, again[1][name]) for name, tensor in again[0].items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["teacher=null"],
            ["teacher=null: objective Progressive learns from a trained model"],
        ),
        ([*SIMPLE], ["objective DenoisingObjective learns from none; leave it out."]),
        ([*SIMPLE, "teacher=null", "teacher_weights=ema"], ["teacher_weights=ema: has no effect without"]),
        (["teacher=nowhere"], ["teacher=nowhere: no such run directory or checkpoint file."]),
        ([STAGES.format(64), "teacher_weights=emma"], ["teacher_weights=emma", "did you mean 'ema'"]),
        ([STAGES.format(64), "network.channels=16"], ["train.py: teacher=", "last.ckpt: "]),
        (["conditioner=label"], ["has conditioner._target_=denoiselab.conditioners.Unconditional, and this run"]),
        (["spacing@objective.spacing=karras"], ["objective.spacing=Karras: its levels of 4 steps on VPLinear"]),
        (["evaluation.samplers=[heun]"], ["evaluation: heun at", "the model was distilled for 4 steps of DDIM"]),
        (
            ["evaluation.nfe=[8]"],
            ["ddim at 8 calls", "for 4 steps of DDIM on one grid; give ddim of 4 steps"],
        ),
        (["stages={objective:{steps:[2,1]},max_images:[64]}"], ["stages.max_images=[64]", "each of the 2 stages"]),
        (
            ["stages={objective:{steps:[4,3]},max_images:[64,64]}"],
            ["stages.objective.steps: 3 after 4; a stage has half the steps of its teacher's."],
        ),
        (["stages={network:{channel:[8]}}"], ["channel"]),
        (["stages={depth:[8]}"], ["stages.depth: this configuration has no option depth."]),
    ],
)
def test_what_a_teacher_cannot_teach_is_refused(options, says, teacher, tmp_path, invoke):
    result = invoke("train.py", *STUDENT, f"teacher={teacher}", f"paths.run_dir={tmp_path / 'run'}", *options)
    assert result.code == 2, result.err
    assert all(text in result.last for text in says), result.last
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_continues_with_its_own_teacher_alone(teacher, tmp_path, invoke):
    """Wherever that is; its model takes the steps of its training, and no others."""
    run, moved = tmp_path / "run", shutil.copytree(teacher, tmp_path / "moved")
    asked = [*STUDENT, f"paths.run_dir={run}", "objective.steps=2"]
    for images, place in ((32, teacher), (64, moved)):
        result = invoke("train.py", *asked, f"teacher={place}", f"max_images={images}")
        assert result.code == 0, result.err
    result = invoke("train.py", *asked, f"teacher={moved}", "max_images=96", "teacher_weights=raw")
    assert result.code == 2
    assert "the run learned from another one (weights ema, now raw); restore that" in result.last
    drawn = invoke("sample.py", f"ckpt={run}", "num_samples=2", "sampler=ddim", f"out={tmp_path / 'drawn.png'}")
    assert drawn.code == 2
    assert "sample.py: sampler=ddim: the model was distilled for 2 steps of DDIM on one grid; give ddim" in drawn.last


@pytest.mark.parametrize(
    ("recipe", "run"),
    [("digits_progressive", "logs/digits_progressive/<run id>"), ("checkerboard_progressive", "logs/checkerboard/pd")],
)
def test_a_page_samples_the_stage_of_one_step(recipe, run):
    steps = list(OmegaConf.load(ROOT / "conf" / "experiment" / f"{recipe}.yaml").stages.objective.steps)
    page = (ROOT / "docs" / "pages" / "guides" / "few_steps.md").read_text(encoding="utf-8")
    stages = re.findall(rf"ckpt={run}/stage_(\d+) sampler=ddim sampler.steps=1\n", page)
    assert [steps[int(stage) - 1] for stage in stages] == [1]
