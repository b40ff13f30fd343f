"""Two processes of one thread against one, in training and in a frontier.

Two trainings apart, each of half the batch, show what the machine itself gives: cores share caches and memory.
"""

import csv
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.benchmark

OPTIONS = [
    "max_images=12800", "logger=none", "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null",
    "callbacks.held_out.every_images=null", "evaluation.samplers=[dpmpp_2m]", "evaluation.nfe=[50]",
    "evaluation.num_samples=1024",
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.parametrize("channels", [32, 64])
def test_two_processes_are_nearly_twice_as_fast_as_one(channels, tmp_path, run):
    def speeds(name, *options):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        path = tmp_path / name
        width = f"network.channels={channels}"
        words = [*OPTIONS, width, *options, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}"]
        result = run("train.py", *words, env=env)
        assert result.code == 0, result.err
        training = re.search(r"throughput on \d x .*: ([\d,.]+) images/s", result.err)
        with (path / "frontier.csv").open() as file:
            (cell,) = csv.DictReader(file)
        return float(training[1].replace(",", "")), 1000 / float(cell["seconds_per_1k_images"])

    one = speeds("one", "trainer=cpu")
    two = speeds("two", *TWO)
    with ThreadPoolExecutor(2) as both:
        alone = [both.submit(speeds, name, "trainer=cpu", "batch_size=64") for name in ("a", "b")]
        apart = [sum(values) for values in zip(*(one.result() for one in alone), strict=True)]
    for name, first, second, third in zip(("training", "frontier"), one, two, apart, strict=True):
        print(f"{channels} channels, {name}: {first:.0f} and {second:.0f} images/s, {second / first:.2f} times; apart "
              f"{third / first:.2f} times")  # fmt: skip
        assert second / first >= 1.7
