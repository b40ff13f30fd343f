"""The parts keep the contracts of denoiselab."""

from types import SimpleNamespace

import pytest
import torch
from labparts.data import Gratings
from labparts.metric import MeanDistance
from labparts.network import GatedConvNet
from labparts.sampler import ExponentialHeun
from labparts.schedule import PowerOfTime

from denoiselab.evaluation import Layer
from denoiselab.samplers.spacing import Asinh
from denoiselab.testing import check_data, check_metric, check_network, check_sampler, check_schedule


def test_sampler():
    check_sampler(ExponentialHeun(Asinh(), steps=20))


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_schedule(power):
    check_schedule(PowerOfTime(power))


def test_network():
    check_network(GatedConvNet([1, 8, 8]), [1, 8, 8])


def test_data():
    gratings = Gratings("gratings", [1, 8, 8], n=400)
    check_data(gratings)
    assert sum(len(part) for part in gratings.load()) == 400


def test_metric():
    check_metric(MeanDistance())
    origin, moved = (Layer(SimpleNamespace(mean=torch.full((3,), value)), None) for value in (0.0, 2.0))
    assert MeanDistance().scores(moved, origin)["mean_distance"].value == 12
