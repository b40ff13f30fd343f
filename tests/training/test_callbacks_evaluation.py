"""Looks during training: they change nothing of it, survive stops, and choose the checkpoint."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import QUICK
from PIL import Image

from denoiselab.training.callbacks import LossLog
from denoiselab.training.callbacks_evaluation import FrontierScores, Preview
from denoiselab.training.interruption import Stopped
from denoiselab.training.module import DiffusionModule
from denoiselab.training.preparing import Preparation

LONGER = [*QUICK, "max_images=160", "network.dropout=0.1", "callbacks.checkpoints.every_images=64"]


def test_looking_does_not_change_the_training(tmp_path, invoke):
    kept = {}
    for name, every in (("never", "null"), ("often", "32")):
        path = tmp_path / name
        result = invoke(
            "train.py", *LONGER, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", "evaluation.nfe=[2]",
            f"callbacks.frontier.every_images={every}", f"callbacks.preview.every_images={every}",
        )  # fmt: skip
        assert result.code == 0, result.err
        kept[name] = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    never, often = kept["never"], kept["often"]
    assert all(torch.equal(often["state_dict"][key], value) for key, value in never["state_dict"].items())
    for key, value in never["denoiselab"]["ema"]["ema"].items():
        assert torch.equal(often["denoiselab"]["ema"]["ema"][key], value)
    path = tmp_path / "often"
    # A cell at each interval, the best of which names the checkpoint that was kept.
    records = json.loads((path / "frontier.json").read_text())
    assert [r["images_seen"] for r in records] == [32, 64, 96, 128, 160]
    best = torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)["denoiselab"]
    assert best["images_seen"] == min(records, key=lambda r: r["score"])["images_seen"]
    with (path / "metrics.csv").open() as file:
        logged = {int(r["images_seen"]): float(r["score/fd_classifier8/ddim@2"]) for r in csv.DictReader(file)
                  if r["score/fd_classifier8/ddim@2"]}  # fmt: skip
    assert logged == pytest.approx({r["images_seen"]: r["score"] for r in records})
    previews = sorted((path / "samples" / "preview").glob("*.png"))
    assert [int(p.stem.removeprefix("images_")) for p in previews] == [32, 64, 96, 128, 160]
    with Image.open(previews[0]) as image:
        assert min(image.size) > 100
    assert not (tmp_path / "never" / "checkpoints" / "best.ckpt").exists()
    assert not (tmp_path / "never" / "samples" / "preview").exists()


class Trainer(SimpleNamespace):
    """What the callbacks use of Lightning's."""

    def __init__(self, *callbacks):
        super().__init__(accumulate_grad_batches=2, world_size=1, callbacks=callbacks, loggers=[], saved=[])
        self.is_global_zero = True

    def save_checkpoint(self, path):
        self.saved.append(path.name)


def module(images_seen):
    out = DiffusionModule.__new__(DiffusionModule)
    torch.nn.Module.__init__(out)
    out.images_seen, out.preparation, out._device_mesh = images_seen, Preparation(), None
    return out


BATCH = {"position": torch.arange(10)}


def scores(tmp_path, values, every=20):
    """A callback whose scores are `values`, one after the other; an exception among them is raised."""
    left = list(values)
    seen = []

    def score(images_seen):
        seen.append(images_seen)
        value = left.pop(0)
        if isinstance(value, BaseException):
            raise value
        return {"score/x": value}, value

    return FrontierScores(lambda *given: score, lambda: None, tmp_path, every, ["ddim"], [2], 8), seen


def test_a_look_waits_for_the_end_of_an_optimizer_step_and_keeps_the_best(tmp_path):
    callback, seen = scores(tmp_path, [3.0, 1.0, 2.0, float("inf")])
    trainer = Trainer(callback)
    for number in range(9):
        callback.on_train_batch_end(trainer, module(10 * (number + 1)), None, BATCH, number)
    assert seen == [20, 40, 60, 80]
    assert trainer.saved == ["best.ckpt", "best.ckpt"]
    again, _ = scores(tmp_path, [1.5])
    again.load_state_dict(callback.state_dict())
    again.on_train_batch_end(trainer, module(100), None, BATCH, 1)
    assert trainer.saved == ["best.ckpt", "best.ckpt"]  # 1.0 of before the stop is still the best


def test_a_look_that_was_stopped_comes_first_when_the_run_goes_on(tmp_path):
    callback, seen = scores(tmp_path, [Stopped(143, "")])
    callback.on_train_batch_end(Trainer(callback), module(20), None, BATCH, 1)
    state = callback.state_dict()
    assert (seen, state["due"]) == ([20], True)
    again, seen = scores(tmp_path, [1.0])
    again.load_state_dict(state)
    again.on_train_start(Trainer(again), module(20))
    assert (seen, again.state_dict()["due"]) == ([20], False)


def test_looks_are_left_out_of_the_speed(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    log = LossLog(20)
    log._since = (0, 100.0)

    def score(images_seen):
        clock[0] += 50.0
        return {}, 1.0

    callback = FrontierScores(lambda *given: score, lambda: None, tmp_path, 20, ["ddim"], [2], 8)
    clock[0] = 101.0
    callback.on_train_batch_end(Trainer(callback, log), module(20), None, BATCH, 1)
    assert clock[0] - log._since[1] == 1.0


def test_a_preview_goes_to_every_logger_that_takes_pictures(tmp_path):
    told = []
    preview = Preview(lambda *given: lambda path: path.touch(), tmp_path, 20, "ddim", 2, 4)
    trainer = Trainer(preview)
    trainer.loggers = [SimpleNamespace(), SimpleNamespace(log_image=lambda *given, step: told.append((*given, step)))]
    preview.on_train_batch_end(trainer, module(20), None, BATCH, 1)
    assert told == [("preview/samples", [str(tmp_path / "images_000000000020.png")], 20)]


def test_a_model_that_diverges_is_told_and_training_goes_on(tmp_path, invoke, monkeypatch):
    from denoiselab.samplers import DDIM

    run = DDIM.run
    monkeypatch.setattr(DDIM, "run", lambda self, *given, **options: run(self, *given, **options) * float("nan"))
    path = tmp_path / "run"
    result = invoke(
        "train.py", *QUICK, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", "callbacks.preview.sampler=ddim",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "preview: sample 0 of DDIM at 2 NFE is not finite." in result.err
    assert "optimized_metric=frontier/best: none of its cells has a score; sample 0" in result.last
    assert "failed: ddim at NFE 3: sample 0 of DDIM at 3 NFE is not finite." in result.out
    assert [r["score"] for r in json.loads((path / "frontier.json").read_text())] == [None, None]
    assert (path / "checkpoints" / "last.ckpt").is_file()
    assert not (path / "checkpoints" / "best.ckpt").exists()
