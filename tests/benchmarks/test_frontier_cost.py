"""What a frontier costs beside its network and its features."""

import time
from contextlib import nullcontext

import pytest
import torch
from configurations import build

from denoiselab import parameterizations
from denoiselab.codecs import Identity
from denoiselab.conditioners import Unconditional
from denoiselab.data import Digits
from denoiselab.denoiser import Denoiser, ScaledTime
from denoiselab.evaluation import DomainClassifier, FrechetDistance, Frontier, Measure, Store, Subject, Workspace
from denoiselab.model import Model
from denoiselab.networks import DDPMUNet
from denoiselab.schedules import VPLinear

SAMPLERS = ("ancestral", "ddim", "dpmpp_2m", "heun", "unipc")


class Clock:
    def __init__(self, now=time.perf_counter):
        self.seconds, self._now = 0.0, now

    def around(self, call):
        def timed(*args, **kwargs):
            start = self._now()
            out = call(*args, **kwargs)
            self.seconds += self._now() - start
            return out

        return timed


@pytest.mark.benchmark
def test_a_frontier_takes_little_more_than_its_network_and_its_features(tmp_path):
    """The whole of it, files included, against the time inside the network's and the extractor's calls of that run."""
    train, held_out = Digits("digits", (1, 8, 8), 10).load()
    metrics = {"frechet": FrechetDistance()}
    scorer = DomainClassifier(epochs=1).fit(train, held_out, metrics, {"frechet": {}}, Workspace(tmp_path))
    reference = scorer.reference(train, {"data": "digits", "split": "train"}, Workspace(tmp_path), torch.device("cpu"))
    network = DDPMUNet((1, 8, 8), channels=32, multipliers=(1, 2), blocks=1, attention_levels=(), dropout=0.0, groups=8)
    network.to(memory_format=torch.channels_last).eval()
    denoiser = Denoiser(network, VPLinear(), parameterizations.eps, ScaledTime())
    forward, features = Clock(), Clock()
    network.forward = forward.around(network.forward)
    extractor = type(scorer.extractor)
    original = extractor.__call__
    extractor.__call__ = features.around(original)
    samplers = {name: build("sampler", name) for name in SAMPLERS}
    settings = {name: {} for name in samplers}
    out = Frontier(samplers, settings, denoiser.schedule, [5, 10], {}, 256, 128, 0, ["raw"])
    subject = Subject(Model(denoiser, Unconditional(), Identity((1, 8, 8))), lambda name: nullcontext())
    protocol = {"data": "digits", "split": "train", "images_seen": 0}
    try:
        start = time.perf_counter()
        records = out.run(subject, Measure(scorer, reference), Store(tmp_path / "run"), protocol)
        whole = time.perf_counter() - start
    finally:
        extractor.__call__ = original
    parts = forward.seconds + features.seconds
    print(
        f"\n{len(records)} cells: {whole:.2f} s; network {forward.seconds:.2f} s, features {features.seconds:.2f} s; "
        f"ratio {whole / parts:.3f}"
    )
    assert all(record["error"] is None for record in records)
    assert whole <= 1.1 * parts
