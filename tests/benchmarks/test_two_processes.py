"""Two processes of one thread against one, in training and in a frontier.

Two trainings apart, each of half the batch, show what the machine itself gives: cores share caches and memory. What
processes tell each other takes as long in each step of any batch, so the default of 128 images, steps of 0.1 s, gains
less.
"""

import csv
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.benchmark

OPTIONS = [
    "max_images=16384", "logger=none", "callbacks.throughput.every_images=4096", "callbacks.throughput.skip_steps=4",
    "callbacks.frontier.every_images=null", "callbacks.preview.every_images=null",
    "callbacks.held_out.every_images=null", "evaluation.samplers=[dpmpp_2m]", "evaluation.nfe=[50]",
    "evaluation.num_samples=1024",
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.parametrize(("batch", "least"), [(128, 1.4), (512, 1.7)])
def test_two_processes_are_nearly_twice_as_fast_as_one(batch, least, tmp_path, run):
    def speeds(name, batch, *options):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        path = tmp_path / name
        words = [*OPTIONS, f"batch_size={batch}", *options, f"paths.log_dir={tmp_path}", f"paths.run_dir={path}"]
        result = run("train.py", *words, env=env)
        assert result.code == 0, result.err
        training = re.search(r"throughput on \d x .*: ([\d,.]+) images/s", result.err)
        with (path / "frontier.csv").open() as file:
            (cell,) = csv.DictReader(file)
        return float(training[1].replace(",", "")), 1000 / float(cell["seconds_per_1k_images"])

    one = speeds("one", batch, "trainer=cpu")
    two = speeds("two", batch, *TWO)
    with ThreadPoolExecutor(2) as both:
        alone = [both.submit(speeds, name, batch // 2, "trainer=cpu") for name in ("a", "b")]
        apart = [sum(values) for values in zip(*(one.result() for one in alone), strict=True)]
    for name, first, second, third in zip(("training", "frontier"), one, two, apart, strict=True):
        print(f"batches of {batch}, {name}: {first:.0f} and {second:.0f} images/s, {second / first:.2f} times; apart "
              f"{third / first:.2f} times")  # fmt: skip
        assert second / first >= (least if name == "training" else 1.7)
