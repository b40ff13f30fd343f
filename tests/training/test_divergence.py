"""Steps whose gradients are not finite: left out, or undone by a checkpoint, or the end."""

import csv

import pytest
import torch
from conftest import QUICK

from denoiselab.training.module import DiffusionModule

RUN = [
    *QUICK, "max_images=320", "batch_size=32", "callbacks.checkpoints.every_images=64", "logger=none",
    "callbacks.loss_log.every_images=160", "callbacks.frontier.every_images=null", "evaluation.nfe=[2]",
    "callbacks.preview.every_images=null", "callbacks.held_out.every_images=null",
]  # fmt: skip


def bad_steps(monkeypatch, numbers):
    """Make the losses of some steps NaN; the weights before each step are kept."""
    step, weights = DiffusionModule.training_step, []

    def broken(self, batch, batch_idx):
        weights.append([p.detach().clone() for p in self.denoiser.parameters()])
        out = step(self, batch, batch_idx)
        return {**out, "loss": out["loss"] * float("nan")} if len(weights) - 1 in numbers else out

    monkeypatch.setattr(DiffusionModule, "training_step", broken)
    return weights


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("policy", ["skip", "back"])
def test_a_step_that_is_not_finite_is_left_out(policy, tmp_path, invoke, monkeypatch):
    """The fifth; the checkpoint before it was saved after four steps, that before the fourth after two."""
    weights = bad_steps(monkeypatch, {4} if policy == "skip" else {3})
    path = tmp_path / "run"
    result = invoke("train.py", *RUN, f"callbacks.divergence.policy={policy}", f"paths.log_dir={tmp_path}",
        f"paths.run_dir={path}")  # fmt: skip
    assert result.code == 0, result.err
    assert len(weights) == 10
    if policy == "skip":
        assert same(weights[4], weights[5])
        assert not same(weights[3], weights[4])
    else:
        assert same(weights[4], weights[2])  # of 64 images seen
        assert not same(weights[4], weights[3])
        assert not same(weights[5], weights[3])
    with (path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [float(row["train/steps_left_out"]) for row in rows] == [1, 1]
    assert "gradients are not finite in 1 step(s) in a row" in result.err


def test_too_many_in_a_row_end_the_training(tmp_path, invoke, monkeypatch):
    bad_steps(monkeypatch, range(3, 10))
    result = invoke("train.py", *RUN, "callbacks.divergence.policy=skip", "callbacks.divergence.most=2",
        f"paths.log_dir={tmp_path}")  # fmt: skip
    assert result.code == 1
    assert "gradients are not finite in 3 step(s) in a row" in result.last
    assert "callbacks.divergence.most" in result.last
    assert " images seen, is kept" in result.last
