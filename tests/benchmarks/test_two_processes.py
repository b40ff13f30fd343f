"""Two processes of one thread against one, in training and in a frontier."""

import csv
import os
import re

import pytest

pytestmark = pytest.mark.benchmark

OPTIONS = [
    "max_images=12800", "logger=none", "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null",
    "callbacks.held_out.every_images=null", "evaluation.samplers=[dpmpp_2m]", "evaluation.nfe=[50]",
    "evaluation.num_samples=1024",
]  # fmt: skip


def test_two_processes_are_nearly_twice_as_fast_as_one(tmp_path, run):
    def speeds(name, *world):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        path = tmp_path / name
        result = run("train.py", *OPTIONS, *world, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}", env=env)
        assert result.code == 0, result.err
        training = re.search(r"throughput on \d x .*: ([\d,.]+) images/s", result.err)
        with (path / "frontier.csv").open() as file:
            (cell,) = csv.DictReader(file)
        return float(training[1].replace(",", "")), 1000 / float(cell["seconds_per_1k_images"])

    one = speeds("one", "trainer=cpu")
    two = speeds("two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    for name, first, second in zip(("training", "frontier"), one, two, strict=True):
        print(f"{name}: {first:.0f} and {second:.0f} images/s, {second / first:.2f} times")
        assert second / first >= 1.7
